"""The objects of the cluster, and the log of what happened to them: the double's etcd."""

from __future__ import annotations

import asyncio
import copy
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from tests.kubernetes import errors, schemas
from tests.kubernetes.matching import fields_match, labels_match
from tests.kubernetes.resources import BUILT_IN, Resource, custom_resources

Object = dict[str, Any]
MAXIMUM_LOG = 20_000


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(frozen=True)
class Change:
    """One entry of the log; ``before`` is None for an object that is new."""

    version: int
    type: str
    resource: str
    object: Object
    before: Object | None


class Store:
    """All objects. Those that are stored are never mutated: a change replaces them. Used in one event loop only."""

    def __init__(self) -> None:
        self.version = 1
        self.resources: dict[str, Resource] = {each.full_name: each for each in BUILT_IN}
        self.log: list[Change] = []
        self.oldest = 1
        self._objects: dict[str, dict[tuple[str, str], Object]] = {}
        self._changed = asyncio.Event()

    # Reading

    def find(self, resource: str, namespace: str | None, name: str) -> Object | None:
        return self._objects.get(resource, {}).get((namespace or "", name))

    def get(self, resource: str, namespace: str | None, name: str) -> Object:
        found = self.find(resource, namespace, name)
        if found is None:
            raise errors.not_found(self.resources[resource], name)
        return found

    def list(
        self, resource: str, namespace: str | None = None, labels: str = "", fields: str = ""
    ) -> list[Object]:
        return [
            each
            for (where, _), each in sorted(self._objects.get(resource, {}).items())
            if namespace in (None, where)
            and labels_match(labels, each["metadata"].get("labels"))
            and fields_match(fields, each)
        ]

    def all(self, namespace: str | None = None) -> Iterator[tuple[str, Object]]:
        for resource, objects in list(self._objects.items()):
            for (where, _), each in list(objects.items()):
                if namespace in (None, where):
                    yield resource, each

    def by_uid(self) -> dict[str, tuple[str, Object]]:
        return {each["metadata"]["uid"]: (resource, each) for resource, each in self.all()}

    async def wait_after(self, version: int) -> None:
        """Until something has happened after ``version``."""
        while self.version <= version:
            await self._changed.wait()

    async def wait_for(self, resources: frozenset[str], version: int) -> None:
        """Until something has happened to these resources after ``version``."""
        while not resources & self.changed_resources(version):
            await self.wait_after(self.version)

    async def changes(self, since: int) -> AsyncIterator[Change]:
        """The log from ``since`` on, live; raises 410 Expired when the log does not reach back so far."""
        while True:
            if since < self.oldest - 1:
                raise errors.expired(since, self.oldest)
            news = self._after(since)
            for each in news:
                since = each.version
                yield each
            if not news:
                await self.wait_after(since)

    def _after(self, version: int) -> list[Change]:
        found = []
        for each in reversed(self.log):
            if each.version <= version:
                break
            found.append(each)
        return found[::-1]

    def changed_resources(self, since: int) -> set[str]:
        return {each.resource for each in self._after(since)}

    def compact(self, keep: int = 0) -> None:
        """Forget the log, as etcd does every five minutes: watches from before answer 410."""
        self.log = self.log[len(self.log) - keep :] if keep else []
        self.oldest = self.log[0].version if self.log else self.version + 1

    # Writing

    def create(self, resource: str, obj: Object) -> Object:
        """Store a new object, as it is after admission."""
        kind = self.resources[resource]
        obj = copy.deepcopy(obj)
        metadata = obj.setdefault("metadata", {})
        if not metadata.get("name"):
            metadata["name"] = metadata["generateName"] + uuid.uuid4().hex[:5]
        if not kind.namespaced:
            metadata.pop("namespace", None)
        key = (metadata.get("namespace", ""), metadata["name"])
        if key in self._objects.get(resource, {}):
            raise errors.already_exists(kind, key[1])
        for each in (
            "resourceVersion",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
            "selfLink",
            "managedFields",
        ):
            metadata.pop(each, None)
        metadata.update(uid=str(uuid.uuid4()), creationTimestamp=now(), generation=1)
        obj["apiVersion"], obj["kind"] = kind.api_version, kind.kind
        obj = self._conform(kind, obj)
        self._commit("ADDED", resource, key, obj, None)
        return obj

    def update(self, resource: str, obj: Object, part: str = "") -> Object:
        """Replace an object, or its status only; a resourceVersion that is not the stored one is a conflict."""
        kind = self.resources[resource]
        metadata = obj["metadata"]
        key = (metadata.get("namespace", "") if kind.namespaced else "", metadata["name"])
        before = self.get(resource, *key)
        expected = metadata.get("resourceVersion")
        if expected and expected != before["metadata"]["resourceVersion"]:
            raise errors.conflict(kind, key[1])
        if metadata.get("uid", before["metadata"]["uid"]) != before["metadata"]["uid"]:
            why = f"Precondition failed: UID in precondition: {metadata['uid']}, UID in object meta: {before['metadata']['uid']}"
            raise errors.conflict(kind, key[1], f"StorageError: invalid object, {why}")
        after = copy.deepcopy(obj)
        if part == "status":
            after = {**before, "status": after.get("status", {})}
        elif "status" in kind.subresources:
            after.pop("status", None)
            if "status" in before:
                after["status"] = before["status"]
        kept = (
            "uid",
            "creationTimestamp",
            "generation",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
            "namespace",
        )
        fixed = {each: before["metadata"][each] for each in kept if each in before["metadata"]}
        after["metadata"] = {**after["metadata"], **fixed}
        after["apiVersion"], after["kind"] = before["apiVersion"], before["kind"]
        after = self._conform(kind, after)
        return self._replace(resource, key, before, after)

    def change(self, resource: str, obj: Object, mutate: Callable[[Object], Any]) -> Object:
        """Change an object in place of a client; for the cluster's own parts, which may change anything."""
        key = (obj["metadata"].get("namespace", ""), obj["metadata"]["name"])
        before = self.find(resource, *key)
        if before is None or before["metadata"]["uid"] != obj["metadata"]["uid"]:
            return obj
        after = copy.deepcopy(before)
        mutate(after)
        return self._replace(resource, key, before, after)

    def delete(self, resource: str, obj: Object, grace: int | None = None, propagation: str = "") -> Object:
        """Delete an object, or mark it for those who must finish first: finalizers, and the kubelet of a pod."""

        def mark(after: Object) -> None:
            metadata = after["metadata"]
            metadata.setdefault("deletionTimestamp", now())
            if resource == "pods":
                seconds = after["spec"].get("terminationGracePeriodSeconds", 30) if grace is None else grace
                metadata["deletionGracePeriodSeconds"] = min(
                    seconds, metadata.get("deletionGracePeriodSeconds", seconds)
                )
            finalizer = {"Foreground": "foregroundDeletion", "Orphan": "orphan"}.get(propagation)
            if finalizer and finalizer not in metadata.get("finalizers", ()):
                metadata.setdefault("finalizers", []).append(finalizer)

        return self.change(resource, obj, mark)

    def _replace(self, resource: str, key: tuple[str, str], before: Object, after: Object) -> Object:
        if after == before:
            return before
        ignored = ("metadata", "status")
        if any(
            after.get(each) != before.get(each)
            for each in after.keys() | before.keys()
            if each not in ignored
        ):
            after["metadata"]["generation"] = before["metadata"].get("generation", 1) + 1
        if self._gone(resource, after):
            self._commit("DELETED", resource, key, after, before)
        else:
            self._commit("MODIFIED", resource, key, after, before)
        return after

    @staticmethod
    def _gone(resource: str, obj: Object) -> bool:
        metadata = obj["metadata"]
        if "deletionTimestamp" not in metadata or metadata.get("finalizers"):
            return False
        if resource == "namespaces":
            return not obj["spec"].get("finalizers")
        on_a_node = resource == "pods" and obj["spec"].get("nodeName")
        return not on_a_node or metadata.get("deletionGracePeriodSeconds") == 0

    def _conform(self, kind: Resource, obj: Object) -> Object:
        if kind.schema is None:
            return obj
        obj = schemas.conform(obj, kind.schema)
        if causes := schemas.violations(obj, kind.schema):
            raise errors.invalid(kind, obj["metadata"]["name"], causes)
        return obj

    def _commit(
        self, type_: str, resource: str, key: tuple[str, str], obj: Object, before: Object | None
    ) -> None:
        self.version += 1
        obj["metadata"]["resourceVersion"] = str(self.version)
        objects = self._objects.setdefault(resource, {})
        if type_ == "DELETED":
            objects.pop(key, None)
        else:
            objects[key] = obj
        self.log.append(Change(self.version, type_, resource, obj, before))
        if len(self.log) > MAXIMUM_LOG:
            self.compact(keep=MAXIMUM_LOG // 2)
        if resource == "customresourcedefinitions.apiextensions.k8s.io":
            self._declare(type_, obj)
        self._changed.set()
        self._changed = asyncio.Event()

    def _declare(self, type_: str, definition: Object) -> None:
        for each in custom_resources(definition):
            if type_ == "DELETED":
                self.resources.pop(each.full_name, None)
                for _, obj in [found for found in self.all() if found[0] == each.full_name]:
                    self.delete(each.full_name, obj)
            else:
                self.resources[each.full_name] = each

    def record_event(
        self, about: Object, reason: str, message: str, source: str, type_: str = "Normal"
    ) -> None:
        """An Event about an object; one that says the same as before is counted."""
        metadata = about["metadata"]
        namespace = metadata.get("namespace", "default")
        for each in self.list("events", namespace):
            same = (each["involvedObject"].get("uid"), each["reason"], each["message"]) == (
                metadata["uid"],
                reason,
                message,
            )
            if same:
                count = each.get("count", 1) + 1
                self.change(
                    "events", each, lambda event, count=count: event.update(count=count, lastTimestamp=now())
                )
                return
        reference = {
            key: metadata[key] for key in ("name", "namespace", "uid", "resourceVersion") if key in metadata
        }
        event = {
            "metadata": {"name": f"{metadata['name']}.{uuid.uuid4().hex[:16]}", "namespace": namespace},
            "involvedObject": {"kind": about["kind"], "apiVersion": about["apiVersion"], **reference},
            "reason": reason,
            "message": message,
            "type": type_,
            "source": {"component": source},
            "reportingComponent": source,
            "firstTimestamp": now(),
            "lastTimestamp": now(),
            "count": 1,
        }
        if self.find("namespaces", None, namespace):
            self.create("events", event)
