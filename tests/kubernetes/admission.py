"""What the API server checks and fills in before it stores an object."""

from __future__ import annotations

import base64
import itertools
import re
import uuid
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from tests.kubernetes import errors, quantities
from tests.kubernetes.matching import object_labels_match
from tests.kubernetes.resources import Resource
from tests.kubernetes.store import Object, Store

NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
ACCOUNT_FILES = "/var/run/secrets/kubernetes.io/serviceaccount"


class Admission:
    """Checks and defaults of the built-in kinds, and quotas."""

    def __init__(self, store: Store, block: range) -> None:
        self._store = store
        self._addresses = (f"127.101.{x}.{y}" for x, y in itertools.product(block, range(1, 255)))
        self._node_ports = itertools.count(30000)
        self._fill: dict[str, Callable[[Object], None]] = {
            "pods": self._fill_pod,
            "services": self._fill_service,
            "deployments.apps": self._fill_workload,
            "replicasets.apps": self._fill_workload,
            "secrets": self._fill_secret,
            "namespaces": self._fill_namespace,
        }

    def create(self, kind: Resource, obj: Object) -> Object:
        """A new object, as it is to be stored."""
        metadata = obj.setdefault("metadata", {})
        if kind.namespaced:
            self._check_namespace(kind, metadata)
        if not metadata.get("name"):
            if not metadata.get("generateName"):
                raise errors.invalid(
                    kind, "", ["metadata.name: Required value: name or generateName is required"]
                )
            metadata["name"] = metadata["generateName"] + uuid.uuid4().hex[:5]
        self.check_metadata(kind, metadata)
        if kind.full_name in self._fill:
            self._fill[kind.full_name](obj)
        if "status" in kind.subresources and kind.schema is not None:
            obj.pop("status", None)
        self._check_quota(kind, obj)
        return obj

    def check_metadata(self, kind: Resource, metadata: Object) -> None:
        name = metadata["name"]
        causes = []
        if kind.group != "rbac.authorization.k8s.io" and (not NAME.fullmatch(name) or len(name) > 253):
            causes.append(
                f'metadata.name: Invalid value: "{name}": a lowercase RFC 1123 subdomain must consist of lower case '
                "alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. "
                f"'example.com', regex used for validation is '{NAME.pattern}')"
            )
        for value in (metadata.get("labels") or {}).values():
            if not isinstance(value, str):
                message = "json: cannot unmarshal non-string value into Go struct field ObjectMeta.metadata.labels of type string"
                raise errors.bad_request(message)
            if len(value) > 63:
                causes.append(f'metadata.labels: Invalid value: "{value}": must be no more than 63 bytes')
        if causes:
            raise errors.invalid(kind, name, causes)

    def _check_namespace(self, kind: Resource, metadata: Object) -> None:
        name = metadata["namespace"]
        namespace = self._store.get("namespaces", None, name)
        if "deletionTimestamp" in namespace["metadata"]:
            why = f"unable to create new content in namespace {name} because it is being terminated"
            raise errors.forbidden(kind, metadata.get("name", ""), why)

    def _fill_namespace(self, obj: Object) -> None:
        obj.setdefault("spec", {})["finalizers"] = ["kubernetes"]
        obj["status"] = {"phase": "Active"}

    def _fill_secret(self, obj: Object) -> None:
        obj.setdefault("type", "Opaque")
        for key, value in obj.pop("stringData", {}).items():
            obj.setdefault("data", {})[key] = base64.b64encode(value.encode()).decode()

    def _fill_service(self, obj: Object) -> None:
        spec = obj.setdefault("spec", {})
        spec.setdefault("type", "ClusterIP")
        if not spec.get("ports") and spec.get("clusterIP") != "None":
            raise errors.invalid(
                self._store.resources["services"], obj["metadata"]["name"], ["spec.ports: Required value"]
            )
        if not spec.get("clusterIP"):
            spec["clusterIP"] = next(self._addresses)
            spec["clusterIPs"] = [spec["clusterIP"]]
        for port in spec.get("ports", ()):
            port.setdefault("protocol", "TCP")
            port.setdefault("targetPort", port["port"])
            if spec["type"] != "ClusterIP":
                port.setdefault("nodePort", next(self._node_ports))
        obj["status"] = {"loadBalancer": {}}
        if spec["type"] == "LoadBalancer":
            obj["status"]["loadBalancer"]["ingress"] = [{"ip": spec["clusterIP"]}]

    def _fill_workload(self, obj: Object) -> None:
        kind = self._store.resources[
            "deployments.apps" if obj.get("kind") != "ReplicaSet" else "replicasets.apps"
        ]
        spec = obj["spec"]
        spec.setdefault("replicas", 1)
        labels = spec["template"].get("metadata", {}).get("labels") or {}
        causes = []
        if not object_labels_match(spec.get("selector"), labels):
            causes.append(
                "spec.template.metadata.labels: Invalid value: `selector` does not match template `labels`"
            )
        causes += self._pod_causes(spec["template"].get("spec") or {}, "spec.template.spec")
        if causes:
            raise errors.invalid(kind, obj["metadata"]["name"], causes)
        obj["status"] = {}

    def _fill_pod(self, obj: Object) -> None:
        kind, metadata, spec = self._store.resources["pods"], obj["metadata"], obj.setdefault("spec", {})
        if causes := self._pod_causes(spec, "spec"):
            raise errors.invalid(kind, metadata["name"], causes)
        spec.setdefault("restartPolicy", "Always")
        spec.setdefault("terminationGracePeriodSeconds", 30)
        account = spec.setdefault("serviceAccountName", "default")
        found = self._store.find("serviceaccounts", metadata["namespace"], account)
        if found is None:
            where = f"{metadata['namespace']}/{account}"
            why = f'error looking up service account {where}: serviceaccount "{account}" not found'
            raise errors.forbidden(kind, metadata["name"], why)
        wanted = spec.get("automountServiceAccountToken", found.get("automountServiceAccountToken", True))
        containers = [*(spec.get("initContainers") or ()), *spec["containers"]]
        taken = [mount["mountPath"] for each in containers for mount in each.get("volumeMounts") or ()]
        if wanted and ACCOUNT_FILES not in taken:
            self._mount_account(spec, containers)
        for container in containers:
            resources = container.get("resources") or {}
            if resources.get("limits"):
                container["resources"] = {
                    **resources,
                    "requests": {**resources["limits"], **(resources.get("requests") or {})},
                }
        obj["status"] = {"phase": "Pending", "qosClass": "Burstable"}

    @staticmethod
    def _mount_account(spec: Object, containers: list[Object]) -> None:
        name = f"kube-api-access-{uuid.uuid4().hex[:5]}"
        sources = [
            {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {
                "downwardAPI": {
                    "items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]
                }
            },
        ]
        spec["volumes"] = [*(spec.get("volumes") or ()), {"name": name, "projected": {"sources": sources}}]
        for each in containers:
            mount = {"name": name, "mountPath": ACCOUNT_FILES, "readOnly": True}
            each["volumeMounts"] = [*(each.get("volumeMounts") or ()), mount]

    @staticmethod
    def _pod_causes(spec: Object, path: str) -> list[str]:
        causes = [] if spec.get("containers") else [f"{path}.containers: Required value"]
        volumes = {each["name"] for each in spec.get("volumes") or ()}
        for index, container in enumerate(spec.get("containers") or ()):
            where = f"{path}.containers[{index}]"
            if not container.get("name"):
                causes.append(f"{where}.name: Required value")
            if not container.get("image"):
                causes.append(f"{where}.image: Required value")
            for number, mount in enumerate(container.get("volumeMounts") or ()):
                if mount["name"] not in volumes:
                    causes.append(f'{where}.volumeMounts[{number}].name: Not found: "{mount["name"]}"')
            resources = container.get("resources") or {}
            limits, requests = resources.get("limits") or {}, resources.get("requests") or {}
            for name, amount in requests.items():
                extended = "/" in name
                if name in limits and quantities.parse(amount) > quantities.parse(limits[name]):
                    causes.append(
                        f'{where}.resources.requests: Invalid value: "{amount}": must be less than or equal to '
                        f"{name} limit of {limits[name]}"
                    )
                elif extended and name not in limits:
                    causes.append(
                        f"{where}.resources.limits: Required value: Limit must be set for non overcommitable resources"
                    )
        return causes

    # Quotas

    def _check_quota(self, kind: Resource, obj: Object) -> None:
        if not kind.namespaced or kind.full_name == "resourcequotas":
            return
        metadata = obj["metadata"]
        for quota in self._store.list("resourcequotas", metadata["namespace"]):
            hard = quota["spec"].get("hard") or {}
            asked = {name: amount for name, amount in charge(kind, obj).items() if name in hard}
            if kind.full_name == "pods" and (missing := self._unspecified(obj, hard)):
                why = f"failed quota: {quota['metadata']['name']}: must specify {missing}"
                raise errors.forbidden(kind, metadata["name"], why)
            used = self.used(quota)
            over = [
                name
                for name, amount in asked.items()
                if amount and used[name] + amount > quantities.parse(hard[name])
            ]
            if over:
                requested = ",".join(f"{name}={quantities.show(asked[name])}" for name in sorted(over))
                taken = ",".join(f"{name}={quantities.show(used[name])}" for name in sorted(over))
                limited = ",".join(f"{name}={hard[name]}" for name in sorted(over))
                why = f"exceeded quota: {quota['metadata']['name']}, requested: {requested}, used: {taken}, limited: {limited}"
                raise errors.forbidden(kind, metadata["name"], why)

    @staticmethod
    def _unspecified(pod: Object, hard: dict[str, Any]) -> str:
        """Who has a quota of cpu or memory must say how much each container takes."""
        wanted = {"cpu": ("requests", "cpu"), "memory": ("requests", "memory")} | {
            f"{what}.{name}": (what, name) for what in ("requests", "limits") for name in ("cpu", "memory")
        }
        missing = [
            f"{name} for: {container['name']}"
            for container in pod["spec"]["containers"]
            for name, (what, amount) in wanted.items()
            if name in hard and amount not in quantities.of_container(container, what)
        ]
        return "; ".join(missing)

    def used(self, quota: Object) -> dict[str, Fraction]:
        """What the objects of the quota's namespace take of it."""
        total = dict.fromkeys(quota["spec"].get("hard") or {}, Fraction(0))
        for resource, obj in self._store.all(quota["metadata"]["namespace"]):
            for name, amount in charge(self._store.resources[resource], obj).items():
                if name in total:
                    total[name] += amount
        return total


def charge(kind: Resource, obj: Object) -> dict[str, Fraction]:
    """What an object counts for, under all the names that quotas have for it."""
    one = Fraction(1)
    if kind.full_name != "pods":
        return {f"count/{kind.full_name}": one, kind.full_name: one}
    if obj.get("status", {}).get("phase") in ("Succeeded", "Failed"):
        return {"count/pods": one}
    amounts = {"pods": one, "count/pods": one}
    for name, amount in quantities.of_pod(obj["spec"]).items():
        amounts[f"requests.{name}"] = amount
        if "/" not in name:
            amounts[name] = amount
    for name, amount in quantities.of_pod(obj["spec"], "limits").items():
        amounts[f"limits.{name}"] = amount
    return amounts
