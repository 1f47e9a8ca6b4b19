"""What must be so for a profile's cluster to come up, looked at one by one; nothing stays changed."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Iterator
from typing import Any

from nbcloud.clusters import environment
from nbcloud.clusters.base import Progress, silent
from nbcloud.clusters.kubernetes import manifests, naming, operator, thread
from nbcloud.clusters.kubernetes.api import POLL, Api, Manifest, connect
from nbcloud.clusters.kubernetes.findings import Finding
from nbcloud.clusters.kubernetes.naming import Where
from nbcloud.clusters.kubernetes.phases import Trouble, of_pod
from nbcloud.clusters.kubernetes.references import examine_references
from nbcloud.clusters.kubernetes.refusals import INSTALL, Refused
from nbcloud.config.profiles import KubernetesProfile
from nbcloud.errors import NbcloudError

NEEDED = [
    *((verb, "DaskCluster", "") for verb in ("get", "list", "create", "delete")),
    *((verb, "DaskWorkerGroup", "") for verb in ("get", "list", "create", "patch", "delete")),
    *((verb, "Secret", "") for verb in ("get", "create", "patch", "delete")),
    *((verb, "ConfigMap", "") for verb in ("get", "create", "patch", "delete")),
    *((verb, "Pod", "") for verb in ("get", "list")),
    ("get", "Pod", "log"),
    # By WebSocket, which Kubernetes takes for "get"; its newer releases ask for "create" as well.
    *((verb, "Pod", "portforward") for verb in ("get", "create")),
    *((verb, "Deployment", "") for verb in ("list", "delete")),
    *((verb, "Service", "") for verb in ("get", "list")),
]
"""Verb, kind and subresource that `up`, `scale` and `down` need."""
WANTED = [
    (verb, kind, "") for kind in ("ServiceAccount", "Role", "RoleBinding") for verb in ("create", "patch")
]
"""For workers that follow the work, and the end of idle clusters."""

_POD_SECONDS = 90.0


def examine(
    profile: str, settings: KubernetesProfile, *, pod: bool = True, progress: Progress = silent
) -> Iterator[Finding]:
    """Look at everything that a profile's cluster needs.

    Parameters
    ----------
    pod : bool
        Whether a pod may be run for a moment, to see whether the image can be had and what is in it.

    Yields
    ------
    Finding
    """
    try:
        place = thread.run(connect(Where.of(settings)))
    except NbcloudError as error:
        yield Finding("Kubernetes", "bad", error.message, error.hint)
        return
    checks = _checks(place, profile, settings, pod, progress)
    while (finding := thread.run(_next(checks))) is not None:
        yield finding


async def _next(checks: AsyncIterator[Finding]) -> Finding | None:
    return await anext(checks, None)


async def _checks(
    place: Api, profile: str, settings: KubernetesProfile, pod: bool, progress: Progress
) -> AsyncIterator[Finding]:
    yield Finding("Kubernetes", "ok", f"{await place.version()} at {place.server}, context {place.context!r}")
    namespace = await _namespace(place)
    yield namespace
    async for finding in _permissions(place, settings):
        yield finding
    async for finding in _operator(place):
        yield finding
    if namespace.state != "bad":
        async for finding in examine_references(place, profile, settings):
            yield finding
    if pod and namespace.state != "bad":
        for group, image in _images(settings).items():
            progress(f"running a pod of {image}")
            for finding in await _image(place, profile, settings, group, image):
                yield finding


async def _namespace(place: Api) -> Finding:
    try:
        found = await place.get("Namespace", place.namespace)
    except Refused:  # one may well have rights in a namespace, and none to look at it
        return Finding("namespace", "unknown", f"{place.namespace}: you may not look at it")
    if found is None:
        hint = f"Type: kubectl create namespace {place.namespace}"
        return Finding("namespace", "bad", f"there is no {place.namespace!r}", hint)
    return Finding("namespace", "ok", place.namespace)


async def _permissions(place: Api, settings: KubernetesProfile) -> AsyncIterator[Finding]:
    try:
        lacking = await _lacking(place, NEEDED)
        yield (
            Finding("permissions", "bad", f"you may not {', '.join(lacking)}", "See: nbcloud kubernetes rbac")
            if lacking
            else Finding("permissions", "ok", "all that up, scale and down need")
        )
        if settings.service_account:
            return
        lacking = await _lacking(place, WANTED)
        if lacking:
            yield Finding(
                "roles",
                "warning",
                f"you may not {', '.join(lacking)}: workers stay at their minimum, nothing ends when idle",
                "See: nbcloud kubernetes rbac",
            )
    except NbcloudError as error:
        yield Finding("permissions", "unknown", error.message, error.hint)


async def _lacking(place: Api, needed: list[tuple[str, str, str]]) -> list[str]:
    asked = (place.allowed(verb, kind, subresource=sub) for verb, kind, sub in needed)
    answers = await asyncio.gather(*asked)
    lacking: dict[str, list[str]] = {}
    for (verb, kind, sub), allowed in zip(needed, answers, strict=True):
        if not allowed:
            lacking.setdefault(f"{kind}/{sub}" if sub else kind, []).append(verb)
    return [f"{'/'.join(verbs)} {kind}" for kind, verbs in lacking.items()]


async def _operator(place: Api) -> AsyncIterator[Finding]:
    try:
        await place.find("DaskCluster")
    except Refused as error:
        if error.code == 404:
            yield Finding("custom resources", "bad", error.message, INSTALL)
            return
    except NbcloudError as error:
        yield Finding("custom resources", "unknown", error.message, error.hint)
        return
    yield Finding("custom resources", "ok", "DaskCluster and its like are known")
    try:
        pods = await place.everywhere("Pod", {"app.kubernetes.io/name": operator.NAME})
    except Refused:
        yield Finding("operator", "unknown", "you may not look at the pods of all namespaces")
        return
    running = [pod for pod in pods if pod.get("status", {}).get("phase") == "Running"]
    if not pods:
        text = f"no pod has its label (app.kubernetes.io/name={operator.NAME})"
        yield Finding("operator", "warning", text, f"If it does not run elsewhere: {INSTALL.lower()}")
        return
    if not running:
        trouble = next(
            (found.text for pod in pods if (found := of_pod(pod, {}, "the operator"))), "no pod of it runs"
        )
        yield Finding("operator", "bad", trouble, INSTALL)
        return
    image = running[0]["spec"]["containers"][0]["image"]
    where = running[0]["metadata"]["namespace"]
    yield Finding("operator", "ok", f"{image} in {where!r}; dask-kubernetes {operator.version()} here")
    yield await _kopf(place, running[0])


async def _kopf(place: Api, pod: Manifest) -> Finding:
    """The operator's kopf: from 1.42 on it races with itself."""
    from kr8s.asyncio.objects import Pod

    code = "import importlib.metadata as m; print(m.version('kopf'))"
    try:
        target = await Pod(pod, api=place.raw)
        async with asyncio.timeout(10):
            answer = await target.exec(["python", "-c", code], check=False)
        found = answer.stdout.decode().strip()
    except Exception:  # noqa: BLE001 - most people may not look into other people's pods
        return Finding(
            "kopf", "unknown", "you may not look into the operator's pod", "It should be before 1.42."
        )
    number = tuple(int(part) for part in found.split(".")[:2] if part.isdigit())
    if not number:
        return Finding("kopf", "unknown", f"the operator's pod answered {found!r}")
    if number >= (1, 42):
        return Finding(
            "kopf",
            "warning",
            f"{found} races with itself: clusters that others start may stay Pending (nbcloud's don't)",
            INSTALL,
        )
    return Finding("kopf", "ok", found)


# --- the image -------------------------------------------------------------------------------------------


def _images(settings: KubernetesProfile) -> dict[str, str]:
    """A group for each image that is used."""
    found: dict[str, str] = {}
    for key, group in settings.all_groups().items():
        image = group.image or settings.image or manifests.default_image()
        if image not in found.values():
            found[key] = image
    return found


async def _image(
    place: Api, profile: str, settings: KubernetesProfile, group: str, image: str
) -> list[Finding]:
    name = f"nbcloud-doctor-{secrets.token_hex(4)}"
    try:
        await place.create(_pod(name, profile, settings, group, place.namespace))
    except NbcloudError as error:
        text = f"no pod could be made of {image}: {error.message}"
        return [Finding("image", "unknown", text, error.hint)]
    try:
        return await _see(place, name, image)
    finally:
        await asyncio.shield(place.delete("Pod", name))


def _pod(name: str, profile: str, settings: KubernetesProfile, group: str, namespace: str) -> Manifest:
    """A worker's pod that says what it has instead of working."""
    plan = manifests.plan(profile, settings, namespace, ("", "", ""))
    specs = {"default": plan.cluster["spec"]["worker"]["spec"]}
    specs |= {
        key: made["spec"]["worker"]["spec"] for key, made in zip(settings.groups, plan.groups, strict=True)
    }
    spec: dict[str, Any] = json.loads(json.dumps(specs[group]))
    container = spec["containers"][0]
    names = list(environment.NEEDED + environment.COMPARED)
    # As arguments, because the worker's command is one, too: an image may prepare itself before.
    container["args"] = ["python", "-c", f"{environment.SOURCE}\nprint(probe({names!r}))"]
    # It asks for next to nothing, so that it is the image that is looked at, and not the nodes.
    container["resources"] = {"requests": {"cpu": "10m", "memory": "64Mi"}}
    ours = {each["name"] for each in spec["volumes"] if each["name"].startswith("nbcloud-")}
    spec["volumes"] = [each for each in spec["volumes"] if each["name"] not in ours]
    container["volumeMounts"] = [each for each in container["volumeMounts"] if each["name"] not in ours]
    container["env"] = [
        each for each in container["env"] if not each["name"].startswith(("DASK_", "PYTHONPATH"))
    ]
    spec["restartPolicy"] = "Never"
    labels = {**naming.MANAGED_BY, naming.OWNER: naming.owner(), naming.GROUP: group}
    metadata = {"name": name, "namespace": namespace, "labels": labels}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


async def _see(place: Api, name: str, image: str) -> list[Finding]:
    trouble: Trouble | None = None
    try:
        async with asyncio.timeout(_POD_SECONDS):
            while True:
                pod = await place.get("Pod", name)
                if pod is None or pod.get("status", {}).get("phase") in {"Succeeded", "Failed"}:
                    break
                trouble = of_pod(pod, {})
                if trouble is not None and trouble.patience < _POD_SECONDS:
                    return [Finding("image", "bad", trouble.text, trouble.hint)]
                await asyncio.sleep(POLL)
    except TimeoutError:
        text = trouble.text if trouble else "it is still being pulled, perhaps"
        return [Finding("image", "unknown", f"{image} did not run within {_POD_SECONDS:g} s: {text}")]
    log = await place.log(name, lines=5)
    try:
        facts = environment.Facts.of(log.splitlines()[-1])
    except (IndexError, ValueError, KeyError):
        return [Finding("image", "bad", f"{image} can't run Python: {log[-300:] or 'it said nothing'}")]
    dask = facts.packages.get("dask", "none")
    return [
        Finding("image", "ok", f"{image} runs: Python {facts.python}, dask {dask}"),
        *versions(facts, image),
    ]


def versions(there: environment.Facts, whose: str) -> Iterator[Finding]:
    """Where a place's packages differ from ours in what matters."""
    found = environment.differences(environment.here(), there)
    missing = [each.package for each in found if each.matters == "missing"]
    if missing:
        hint = f'With Dask\'s own images: env = {{ EXTRA_PIP_PACKAGES = "{" ".join(missing)}" }}'
        yield Finding("packages", "bad", f"{whose} lacks {', '.join(missing)}", hint)
    for each in found:
        if each.matters != "missing":
            yield Finding("packages", "warning", str(each), "Use like versions on both sides.")
    if not found:
        yield Finding("packages", "ok", "like versions on both sides")
