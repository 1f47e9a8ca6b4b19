"""What follows from what exists: ends of owned objects and namespaces, contents of new namespaces, used quotas."""

from __future__ import annotations

from tests.kubernetes import quantities
from tests.kubernetes.admission import Admission
from tests.kubernetes.store import Object, Store


class GarbageCollector:
    """Deletes what belonged to an object that is gone, or is to go after all that it owns."""

    watches = frozenset({"*"})

    def __init__(self, store: Store) -> None:
        self._store = store

    def sync(self) -> None:
        alive = self._store.by_uid()
        waiting = {uid: obj for uid, (_, obj) in alive.items() if "foregroundDeletion" in finalizers(obj)}
        orphaning = {uid for uid, (_, obj) in alive.items() if "orphan" in finalizers(obj)}
        for resource, obj in list(alive.values()):
            references = obj["metadata"].get("ownerReferences") or []
            kept = [each for each in references if each["uid"] in alive and each["uid"] not in orphaning]
            if references and not kept and not any(each["uid"] in orphaning for each in references):
                self._delete(resource, obj)
            elif any(each["uid"] in waiting for each in references):
                self._delete(resource, obj)
                for each in references:
                    waiting.pop(each["uid"], None)
            elif kept != references:
                self._store.change(
                    resource, obj, lambda changed, kept=kept: changed["metadata"].update(ownerReferences=kept)
                )
        for uid in waiting.keys() | orphaning:
            resource, obj = alive[uid]
            finalizer = "orphan" if uid in orphaning else "foregroundDeletion"
            self._store.change(
                resource,
                obj,
                lambda changed, finalizer=finalizer: changed["metadata"]["finalizers"].remove(finalizer),
            )

    def _delete(self, resource: str, obj: Object) -> None:
        if "deletionTimestamp" not in obj["metadata"]:
            self._store.delete(resource, obj)


def finalizers(obj: Object) -> list[str]:
    return obj["metadata"].get("finalizers") or []


class Namespaces:
    """What a namespace has from its beginning, and how it ends."""

    watches = frozenset({"*"})

    def __init__(self, store: Store, authority: str) -> None:
        self._store, self._authority = store, authority

    def sync(self) -> None:
        for namespace in self._store.list("namespaces"):
            name = namespace["metadata"]["name"]
            if "deletionTimestamp" in namespace["metadata"]:
                self._end(namespace, name)
                continue
            if not self._store.find("serviceaccounts", name, "default"):
                self._store.create("serviceaccounts", {"metadata": {"name": "default", "namespace": name}})
            if not self._store.find("configmaps", name, "kube-root-ca.crt"):
                metadata = {"name": "kube-root-ca.crt", "namespace": name}
                self._store.create("configmaps", {"metadata": metadata, "data": {"ca.crt": self._authority}})

    def _end(self, namespace: Object, name: str) -> None:
        self._store.change(
            "namespaces", namespace, lambda changed: changed["status"].update(phase="Terminating")
        )
        content = list(self._store.all(name))
        for resource, obj in content:
            if "deletionTimestamp" not in obj["metadata"]:
                self._store.delete(resource, obj)
        if not list(self._store.all(name)):
            self._store.change("namespaces", namespace, lambda changed: changed["spec"].update(finalizers=[]))


class Quotas:
    """Writes how much of each quota is used."""

    watches = frozenset({"pods", "resourcequotas", "deployments.apps", "services", "secrets", "configmaps"})

    def __init__(self, store: Store, admission: Admission) -> None:
        self._store, self._admission = store, admission

    def sync(self) -> None:
        for each in self._store.list("resourcequotas"):
            used = {name: quantities.show(amount) for name, amount in self._admission.used(each).items()}
            status = {"hard": each["spec"].get("hard") or {}, "used": used}
            self._store.change(
                "resourcequotas", each, lambda changed, status=status: changed.update(status=status)
            )
