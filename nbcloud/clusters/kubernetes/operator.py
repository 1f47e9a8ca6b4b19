"""The operator of dask-kubernetes: its parts as manifests, applied and removed; read from its own package.

Of its Helm chart, the custom resources and the rules of its account are taken as they are. The Deployment is
composed here, because a chart's templates need Helm, with what its releases need to work:

- kopf 1.42 and later race with themselves (clusters stay "Pending"), so an init container puts an earlier one
  before that of the image.
- A user without a name in the image needs ``LOGNAME``.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nbcloud.clusters.base import Progress, silent
from nbcloud.clusters.kubernetes import thread
from nbcloud.clusters.kubernetes.api import ENDING, POLL, Api, Manifest, connect
from nbcloud.clusters.kubernetes.naming import MANAGED_BY, Where
from nbcloud.errors import ClusterError, ClusterStartError

NAME = "dask-kubernetes-operator"
NAMESPACE = "dask-operator"
KOPF = "kopf<1.42"
_IMAGE = "ghcr.io/dask/dask-kubernetes-operator"
_LABELS = {**MANAGED_BY, "app.kubernetes.io/name": NAME}
_STARTING = 180.0
"""Seconds that the operator may take to start."""
_WELL = 4.0
"""Seconds after which it counts as up."""


def version() -> str:
    """The release of dask-kubernetes that is installed here."""
    return importlib.metadata.version("dask-kubernetes")


def _chart() -> Path:
    import dask_kubernetes.operator

    return Path(dask_kubernetes.operator.__file__).parent / "deployment" / "helm" / NAME


def custom_resources() -> list[Manifest]:
    """The definitions of ``DaskCluster`` and its like."""
    import yaml

    folder = _chart() / "crds"
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the plain one takes seconds
    paths = sorted(folder.glob("*.yaml"))
    return [part for path in paths for part in yaml.load_all(path.read_text(), Loader=loader)]


def _rules() -> list[dict[str, Any]]:
    """What the operator's account may do; of the template only the name is one."""
    import yaml

    text = (_chart() / "templates" / "clusterrole.yaml").read_text()
    plain = "\n".join(line for line in text.splitlines() if "{{" not in line)
    rules: list[dict[str, Any]] = yaml.safe_load(plain)["rules"]
    return rules


def manifests(image: str = "", namespace: str = NAMESPACE) -> list[Manifest]:
    """All that the operator consists of, in the order in which it is applied.

    Parameters
    ----------
    image : str
        One that has dask-kubernetes and a kopf before 1.42; by default the release's, with kopf put right
        when it starts.
    """
    group = "rbac.authorization.k8s.io"
    metadata = {"name": NAME, "labels": dict(_LABELS)}
    here = {**metadata, "namespace": namespace}
    account = {"kind": "ServiceAccount", "name": NAME, "namespace": namespace}
    return [
        *custom_resources(),
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace, "labels": dict(_LABELS)}},
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": here},
        {
            "apiVersion": f"{group}/v1",
            "kind": "ClusterRole",
            "metadata": metadata,
            "rules": _rules(),
        },
        {
            "apiVersion": f"{group}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": metadata,
            "subjects": [account],
            "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": NAME},
        },
        _deployment(image, here),
    ]


def _deployment(image: str, metadata: dict[str, Any]) -> Manifest:
    import yaml

    values = yaml.safe_load((_chart() / "values.yaml").read_text())
    used = image or f"{_IMAGE}:{version()}"
    environment = {"LOGNAME": "dask", "HOME": "/tmp", "PYTHONPATH": "/pins"}  # noqa: S108 - the pod's own
    mounts = [{"name": "pins", "mountPath": "/pins"}, {"name": "tmp", "mountPath": "/tmp"}]  # noqa: S108
    common = {
        "image": used,
        "securityContext": values["securityContext"],
        "env": [{"name": name, "value": value} for name, value in environment.items()],
        "volumeMounts": mounts,
    }
    container = {
        **common,
        "name": NAME,
        "command": ["kopf", "run", "-m", "dask_kubernetes.operator.controller"],
        "args": ["--liveness=http://0.0.0.0:8080/healthz", *values["kopfArgs"]],
        "livenessProbe": {
            "httpGet": {"path": "/healthz", "port": 8080},
            "timeoutSeconds": values["livenessProbe"]["timeoutSeconds"],
            "initialDelaySeconds": 10,
        },
    }
    # Without a way to PyPI it goes on with the image's kopf: nbcloud itself copes with either.
    pin = f"pip install --no-cache-dir --retries 1 --timeout 10 --target /pins '{KOPF}' || rm -rf /pins/*"
    pinned = {**common, "name": "pin-kopf", "command": ["sh", "-c", pin]}
    pod: dict[str, Any] = {
        "serviceAccountName": NAME,
        "containers": [container],
        "volumes": [{"name": "pins", "emptyDir": {}}, {"name": "tmp", "emptyDir": {}}],
    }
    if not image:
        pod["initContainers"] = [pinned]
    labels = {"app.kubernetes.io/name": NAME}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata,
        "spec": {
            "replicas": 1,
            "strategy": {"type": "Recreate"},
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": {**_LABELS}}, "spec": pod},
        },
    }


def install(where: Where, image: str = "", *, progress: Progress = silent) -> str:
    """Apply all of it, and wait until the operator runs.

    Returns
    -------
    str
        The namespace that it is in.

    Raises
    ------
    ClusterStartError
        When it does not come up, with the reason.
    """
    thread.run(_install(where, image, progress))
    return NAMESPACE


async def _install(where: Where, image: str, progress: Progress) -> None:
    place = _within(await connect(where), NAMESPACE)
    for manifest in manifests(image):
        progress(f"{manifest['kind']} {manifest['metadata']['name']}")
        await place.apply(manifest)
    trouble, well_since = "", 0.0
    deadline = time.monotonic() + _STARTING
    # One that ends as soon as it starts looks well for a moment.
    while not well_since or time.monotonic() - well_since < _WELL:
        trouble = await _trouble(place)
        well_since = (well_since or time.monotonic()) if not trouble else 0.0
        progress(trouble or "looking whether the operator stays up")
        if time.monotonic() > deadline:
            raise ClusterStartError(
                f"The operator does not come up: {trouble}.", f"See: kubectl describe pods -n {NAMESPACE}"
            )
        await asyncio.sleep(POLL)


async def _trouble(place: Api) -> str:
    """Why the operator does not run yet; empty when it does."""
    from nbcloud.clusters.kubernetes.phases import of_pod

    pods = await place.find("Pod", {"app.kubernetes.io/name": NAME})
    for pod in pods:
        found = of_pod(pod, {}, "the operator")
        if found is not None:
            return found.text
        conditions = pod.get("status", {}).get("conditions", [])
        if any(each["type"] == "Ready" and each["status"] == "True" for each in conditions):
            return ""
    return "waiting for the operator's pod"


def uninstall(where: Where, *, custom_resources_too: bool = False, progress: Progress = silent) -> None:
    """Remove the operator; its custom resources only on request, because every cluster goes with them.

    Raises
    ------
    ClusterError
        While there are clusters, which nobody would look after any more.
    """
    thread.run(_uninstall(where, custom_resources_too, progress))


async def _uninstall(where: Where, custom_resources_too: bool, progress: Progress) -> None:
    place = _within(await connect(where), NAMESPACE)
    left = await place.everywhere("DaskCluster")
    if left and custom_resources_too:
        await _end_all(place, left, progress)
    elif left:
        names = ", ".join(f"{each['metadata']['namespace']}/{each['metadata']['name']}" for each in left)
        raise ClusterError(
            f"There are clusters that the operator looks after: {names}.",
            "End them first, or have them removed with it: --all",
        )
    for manifest in _removable(custom_resources_too):
        progress(f"{manifest['kind']} {manifest['metadata']['name']}")
        await place.delete(manifest["kind"], manifest["metadata"]["name"])


async def _end_all(place: Api, clusters: list[Manifest], progress: Progress) -> None:
    """End every cluster while there is an operator: without it, their finalizers would keep them for ever."""
    for each in clusters:
        progress(f"ending {each['metadata']['namespace']}/{each['metadata']['name']}")
        await _within(place, each["metadata"]["namespace"]).delete("DaskCluster", each["metadata"]["name"])
    deadline = time.monotonic() + ENDING
    while await place.everywhere("DaskCluster"):
        if time.monotonic() > deadline:
            raise ClusterError(
                f"The clusters have not ended within {ENDING:g} s: the operator seems not to run.",
                f"See: kubectl get pods -n {NAMESPACE}",
            )
        await asyncio.sleep(POLL)


def _removable(custom_resources_too: bool) -> Iterator[Manifest]:
    for manifest in reversed(manifests()):
        if manifest["kind"] != "CustomResourceDefinition" or custom_resources_too:
            yield manifest


def _within(place: Api, namespace: str) -> Api:
    return Api(place.raw, Where(namespace=namespace, context=place.context))
