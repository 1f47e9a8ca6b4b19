"""Names that a profile's objects get."""

from __future__ import annotations

import re

import pytest

from nbcloud.clusters.kubernetes import naming
from nbcloud.config.profiles import KubernetesProfile
from nbcloud.errors import ConfigError


def test_the_plain_name_of_a_profile_is_in_that_of_its_cluster() -> None:
    assert naming.object_name("gpu", KubernetesProfile()) == f"gpu-{naming.owner()}"


def test_names_are_such_as_kubernetes_takes_and_no_two_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    profiles = ["gpu", "Ünï Cödé", "x" * 80, "x" * 81, "a.b", "a-b", "a_b", "3d", "-", "日本"]
    made = []
    for user in ("ann", "Bob.Smith", "u" * 50, "山田"):
        monkeypatch.setattr(naming.getpass, "getuser", lambda user=user: user)
        made += [naming.object_name(profile, KubernetesProfile()) for profile in profiles]
    assert all(re.fullmatch(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?", name) for name in made), made
    assert len(set(made)) == len(made)


def test_a_name_that_kubernetes_would_refuse_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"profiles\.gpu\.cluster_name can't be 'My_Cluster'"):
        naming.object_name("gpu", KubernetesProfile(cluster_name="My_Cluster"))
