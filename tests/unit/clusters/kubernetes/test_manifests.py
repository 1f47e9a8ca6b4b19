"""A profile becomes what the operator takes."""

from __future__ import annotations

import json

from nbcloud.clusters.kubernetes import manifests, roles
from nbcloud.config.profiles import KubernetesProfile, WorkerGroup


def test_a_cluster_that_ends_and_grows_by_hand_has_no_account() -> None:
    fixed = KubernetesProfile(idle_timeout=0)
    kinds = {each["kind"] for each in manifests.plan("gpu", fixed, "ml", ("CA", "CERT", "KEY")).all()}
    assert kinds == {"Secret", "ConfigMap", "DaskCluster"}


def test_the_steward_may_touch_nothing_of_other_clusters_but_deployments_by_name() -> None:
    rules = roles.steward_rules("mine", ["default", "cpu"])
    named = {tuple(rule["resources"]): rule.get("resourceNames") for rule in rules}
    assert named[("daskclusters",)] == ["mine"]
    assert named[("daskworkergroups",)] == ["mine-default", "mine-cpu"]
    assert all("secrets" not in rule["resources"] for rule in rules)
    assert all("create" not in rule["verbs"] for rule in rules)


def test_what_is_shown_has_no_secret() -> None:
    profile = KubernetesProfile(groups={"cpu": WorkerGroup(cpus=8)})
    plan = manifests.plan("gpu", profile, "ml", ("PRIVATE-CA", "PRIVATE-CERT", "PRIVATE-KEY"))
    shown = json.dumps(plan.shown())
    assert "UFJJVkFURS" not in shown  # what PRIVATE is in base64
    assert "UFJJVkFURS" in json.dumps(plan.all())
    assert len(shown) < 30_000
