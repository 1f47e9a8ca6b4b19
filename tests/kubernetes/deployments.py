"""Deployments and the ReplicaSets that they own, which own the pods."""

from __future__ import annotations

import copy
import hashlib
import json

from tests.kubernetes import errors
from tests.kubernetes.admission import Admission
from tests.kubernetes.kubelet import set_condition
from tests.kubernetes.matching import object_labels_match
from tests.kubernetes.store import Object, Store

DEPLOYMENTS, SETS = "deployments.apps", "replicasets.apps"
HASH = "pod-template-hash"


def owner_reference(owner: Object) -> Object:
    reference = {"apiVersion": owner["apiVersion"], "kind": owner["kind"], "name": owner["metadata"]["name"]}
    return {**reference, "uid": owner["metadata"]["uid"], "controller": True, "blockOwnerDeletion": True}


def owned(objects: list[Object], owner: Object) -> list[Object]:
    uid = owner["metadata"]["uid"]
    return [
        each
        for each in objects
        if any(ref["uid"] == uid for ref in each["metadata"].get("ownerReferences") or ())
    ]


def is_ready(pod: Object) -> bool:
    conditions = pod.get("status", {}).get("conditions") or ()
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


class Deployments:
    """Keeps one ReplicaSet per template of a deployment; only that of the present template has pods."""

    watches = frozenset({DEPLOYMENTS, SETS, "pods"})

    def __init__(self, store: Store, admission: Admission) -> None:
        self._store, self._admission = store, admission

    def sync(self) -> None:
        for each in self._store.list(DEPLOYMENTS):
            if "deletionTimestamp" not in each["metadata"]:
                self._sync_one(each)

    def _sync_one(self, deployment: Object) -> None:
        spec, metadata = deployment["spec"], deployment["metadata"]
        digest = hashlib.sha256(json.dumps(spec["template"], sort_keys=True).encode()).hexdigest()[:10]
        sets = owned(self._store.list(SETS, metadata["namespace"]), deployment)
        current = next((each for each in sets if each["metadata"]["labels"].get(HASH) == digest), None)
        if current is None:
            current = self._create_set(deployment, digest)
        for each in sets:
            replicas = spec["replicas"] if each["metadata"]["uid"] == current["metadata"]["uid"] else 0
            if each["spec"]["replicas"] != replicas:
                self._store.change(
                    SETS, each, lambda changed, replicas=replicas: changed["spec"].update(replicas=replicas)
                )
        self._store.change(DEPLOYMENTS, deployment, lambda changed: self._write_status(changed, current))

    def _create_set(self, deployment: Object, digest: str) -> Object:
        metadata, template = deployment["metadata"], copy.deepcopy(deployment["spec"]["template"])
        template.setdefault("metadata", {}).pop("name", None)
        template["metadata"]["labels"] = {**template["metadata"].get("labels", {}), HASH: digest}
        selector = copy.deepcopy(deployment["spec"]["selector"])
        selector.setdefault("matchLabels", {})[HASH] = digest
        new = {
            "metadata": {
                "name": f"{metadata['name']}-{digest}",
                "namespace": metadata["namespace"],
                "labels": template["metadata"]["labels"],
                "ownerReferences": [owner_reference(deployment)],
            },
            "spec": {"replicas": deployment["spec"]["replicas"], "selector": selector, "template": template},
            "status": {},
        }
        created = self._store.create(SETS, new)
        message = (
            f"Scaled up replica set {created['metadata']['name']} from 0 to {deployment['spec']['replicas']}"
        )
        self._store.record_event(deployment, "ScalingReplicaSet", message, "deployment-controller")
        return created

    def _write_status(self, deployment: Object, current: Object) -> None:
        labels = current["spec"]["selector"]["matchLabels"]
        pods = [
            each
            for each in self._store.list("pods", deployment["metadata"]["namespace"])
            if object_labels_match({"matchLabels": labels}, each["metadata"].get("labels"))
            and "deletionTimestamp" not in each["metadata"]
        ]
        ready, wanted = sum(map(is_ready, pods)), deployment["spec"]["replicas"]
        counts = {
            "replicas": len(pods),
            "updatedReplicas": len(pods),
            "readyReplicas": ready,
            "availableReplicas": ready,
        }
        counts["unavailableReplicas"] = max(0, wanted - ready)
        status = deployment.setdefault("status", {})
        for name, count in counts.items():
            status.pop(name, None)
            if count:
                status[name] = count
        status["observedGeneration"] = deployment["metadata"]["generation"]
        enough = ready >= wanted
        which = ("MinimumReplicasAvailable", "Deployment has minimum availability.")
        if not enough:
            which = ("MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
        set_condition(status, "Available", enough, reason=which[0], message=which[1])
        done = f'ReplicaSet "{current["metadata"]["name"]}" '
        done += "has successfully progressed." if enough else "is progressing."
        reason = "NewReplicaSetAvailable" if enough else "ReplicaSetUpdated"
        set_condition(status, "Progressing", True, reason=reason, message=done)
        failures = [
            each
            for each in current.get("status", {}).get("conditions", ())
            if each["type"] == "ReplicaFailure"
        ]
        status["conditions"] = [
            each for each in status["conditions"] if each["type"] != "ReplicaFailure"
        ] + failures


class ReplicaSets:
    """Keeps as many pods as a ReplicaSet says."""

    watches = frozenset({SETS, "pods", "resourcequotas", "serviceaccounts"})

    def __init__(self, store: Store, admission: Admission) -> None:
        self._store, self._admission = store, admission

    def sync(self) -> None:
        for each in self._store.list(SETS):
            if "deletionTimestamp" not in each["metadata"]:
                self._sync_one(each)

    def _sync_one(self, owner: Object) -> None:
        namespace = owner["metadata"]["namespace"]
        pods = [
            each
            for each in owned(self._store.list("pods", namespace), owner)
            if "deletionTimestamp" not in each["metadata"]
            and each["status"].get("phase") not in ("Succeeded", "Failed")
        ]
        failure = ""
        for _ in range(owner["spec"]["replicas"] - len(pods)):
            try:
                pods.append(self._create_pod(owner))
            except errors.StatusError as error:
                failure = error.message
                break
        unready_first = sorted(pods, key=lambda each: (is_ready(each), each["metadata"]["creationTimestamp"]))
        for each in unready_first[: max(0, len(pods) - owner["spec"]["replicas"])]:
            self._store.delete("pods", each)
            self._store.record_event(
                owner, "SuccessfulDelete", f"Deleted pod: {each['metadata']['name']}", "replicaset-controller"
            )
        if failure:
            self._report_failure(owner, failure)
        ready = sum(map(is_ready, pods))

        def write(changed: Object) -> None:
            status = changed.setdefault("status", {})
            status.update(replicas=len(pods), readyReplicas=ready, availableReplicas=ready)
            status["observedGeneration"] = changed["metadata"]["generation"]
            if not failure:
                kept = [each for each in status.get("conditions", ()) if each["type"] != "ReplicaFailure"]
                status["conditions"] = kept

        self._store.change(SETS, owner, write)

    def _create_pod(self, owner: Object) -> Object:
        template = copy.deepcopy(owner["spec"]["template"])
        metadata = template.get("metadata", {})
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "generateName": f"{owner['metadata']['name']}-",
                "namespace": owner["metadata"]["namespace"],
                "labels": metadata.get("labels") or {},
                "annotations": metadata.get("annotations") or {},
                "ownerReferences": [owner_reference(owner)],
            },
            "spec": template["spec"],
        }
        created = self._store.create("pods", self._admission.create(self._store.resources["pods"], pod))
        self._store.record_event(
            owner, "SuccessfulCreate", f"Created pod: {created['metadata']['name']}", "replicaset-controller"
        )
        return created

    def _report_failure(self, owner: Object, message: str) -> None:
        """Once per reason: the name of the pod that was not to be is a new one each time."""
        conditions = owner.get("status", {}).get("conditions") or ()
        known = next((each["message"] for each in conditions if each["type"] == "ReplicaFailure"), "")
        if known.partition(" is forbidden")[2] == message.partition(" is forbidden")[2] != "":
            return
        why = {"reason": "FailedCreate", "message": message}
        self._store.change(
            SETS, owner, lambda changed: set_condition(changed["status"], "ReplicaFailure", True, **why)
        )
        self._store.record_event(
            owner, "FailedCreate", f"Error creating: {message}", "replicaset-controller", "Warning"
        )
