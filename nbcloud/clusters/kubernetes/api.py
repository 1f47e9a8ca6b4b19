"""Kubernetes' API, as far as clusters need it: kr8s underneath, our own sentences when it says no."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
import warnings
from pathlib import Path
from typing import Any

from nbcloud.clusters.kubernetes.naming import MANAGED_BY, Where
from nbcloud.clusters.kubernetes.refusals import (
    TIMEOUT,
    Refused,
    explained,
    kubeconfig_of,
    no_access,
    refused,
)
from nbcloud.errors import ClusterLost, ConfigError, UsageError
from nbcloud.extras import check

Manifest = dict[str, Any]

POLL = 0.1
"""Seconds between two looks at what Kubernetes, or its operator, is doing."""
ENDING = 30.0
"""Seconds that a cluster may take to end."""

KINDS = {
    "Secret": ("v1", "secrets"),
    "ConfigMap": ("v1", "configmaps"),
    "Namespace": ("v1", "namespaces"),
    "ServiceAccount": ("v1", "serviceaccounts"),
    "Service": ("v1", "services"),
    "Pod": ("v1", "pods"),
    "Event": ("v1", "events"),
    "Node": ("v1", "nodes"),
    "PersistentVolumeClaim": ("v1", "persistentvolumeclaims"),
    "Deployment": ("apps/v1", "deployments"),
    "Role": ("rbac.authorization.k8s.io/v1", "roles"),
    "RoleBinding": ("rbac.authorization.k8s.io/v1", "rolebindings"),
    "ClusterRole": ("rbac.authorization.k8s.io/v1", "clusterroles"),
    "ClusterRoleBinding": ("rbac.authorization.k8s.io/v1", "clusterrolebindings"),
    "CustomResourceDefinition": ("apiextensions.k8s.io/v1", "customresourcedefinitions"),
    "SelfSubjectAccessReview": ("authorization.k8s.io/v1", "selfsubjectaccessreviews"),
    "DaskCluster": ("kubernetes.dask.org/v1", "daskclusters"),
    "DaskWorkerGroup": ("kubernetes.dask.org/v1", "daskworkergroups"),
}
"""Version and path of each kind."""

CLUSTER_WIDE = {
    "Namespace",
    "Node",
    "ClusterRole",
    "ClusterRoleBinding",
    "CustomResourceDefinition",
    "SelfSubjectAccessReview",
}


class Api:
    """One place in Kubernetes; belongs to the loop in which it was made (see `connect`)."""

    def __init__(self, raw: Any, where: Where) -> None:
        self.raw = raw
        self._renewal = asyncio.Lock()
        self.namespace: str = where.namespace or raw.namespace
        self.server: str = raw.auth.server
        self.kubeconfig: str = str(Path(kubeconfig_of(where)).expanduser().absolute())
        self.context: str = where.context or getattr(raw.auth, "active_context", "") or ""

    async def get(self, kind: str, name: str) -> Manifest | None:
        """One object, None when there is none.

        Raises
        ------
        Refused
            When it may not be read, or Kubernetes does not know its kind.
        """
        try:
            return await self._call("GET", kind, name)
        except Refused as error:
            if error.code == 404 and error.reason == "NotFound" and self._is_about(error, name):
                return None
            raise

    @staticmethod
    def _is_about(error: Refused, name: str) -> bool:
        return f'"{name}" not found' in error.message

    async def find(
        self, kind: str, labels: dict[str, str] | None = None, *, fields: dict[str, str] | None = None
    ) -> list[Manifest]:
        """All objects of a kind with these labels and fields."""
        params = _selector(labels) | _selector(fields, "fieldSelector")
        found: list[Manifest] = (await self._call("GET", kind, params=params))["items"]
        return found

    async def everywhere(self, kind: str, labels: dict[str, str] | None = None) -> list[Manifest]:
        """All objects of a kind in all namespaces; none when Kubernetes does not know the kind."""
        version, plural = KINDS[kind]
        try:
            response = await self._send("GET", version, None, plural, {"params": _selector(labels)})
        except Refused as error:
            if error.code == 404:
                return []
            raise
        found: list[Manifest] = response.json()["items"]
        return found

    async def create(self, manifest: Manifest, *, dry_run: bool = False) -> Manifest:
        """Make an object, or find out whether we could."""
        params = {"dryRun": "All"} if dry_run else {}
        return await self._call("POST", manifest["kind"], body=manifest, params=params)

    async def make(self, manifest: Manifest) -> Manifest:
        """Make an object anew; one of the same name that a cluster of ours left behind goes.

        Kubernetes collects by and by what an ended cluster owned: to change such an object would not save it.

        Raises
        ------
        UsageError
            When there is one of that name that nbcloud did not make.
        Refused
            When the old one does not go away.
        """
        kind, name = manifest["kind"], manifest["metadata"]["name"]
        deadline = time.monotonic() + TIMEOUT
        while True:
            try:
                return await self.create(manifest)
            except Refused as error:
                if error.code != 409 or time.monotonic() > deadline:
                    raise
            before = await self.get(kind, name)
            if before is not None and not MANAGED_BY.items() <= before["metadata"].get("labels", {}).items():
                raise UsageError(
                    f"The namespace {self.namespace!r} has a {kind} {name!r} that nbcloud did not make.",
                    "Give the profile another cluster_name.",
                )
            await self.delete(kind, name)
            await asyncio.sleep(POLL)

    async def apply(self, manifest: Manifest) -> Manifest:
        """Make an object, or make the one that is there like it."""
        kind, name = manifest["kind"], manifest["metadata"]["name"]
        if await self.get(kind, name) is None:
            return await self.create(manifest)
        return await self.patch(kind, name, manifest)

    async def patch(self, kind: str, name: str, change: Manifest) -> Manifest:
        """Change an object, by a merge patch."""
        return await self._call("PATCH", kind, name, body=change, content_type="application/merge-patch+json")

    async def delete(self, kind: str, name: str) -> bool:
        """Remove an object with all that it owns; returns whether it was there."""
        try:
            await self._call("DELETE", kind, name, params={"propagationPolicy": "Background"})
        except Refused as error:
            if error.code == 404:
                return False
            raise
        return True

    async def log(self, pod: str, *, lines: int = 20, previous: bool = False) -> str:
        """The end of a pod's log; empty when there is none."""
        params = {"tailLines": str(lines), **({"previous": "true"} if previous else {})}
        try:
            text: str = (await self._request("GET", "Pod", f"{pod}/log", params=params)).text
        except Refused:
            return ""
        return text.strip()

    async def allowed(self, verb: str, kind: str, *, subresource: str = "") -> bool:
        """Whether we may do that, as the API server sees it."""
        version, plural = KINDS[kind]
        attributes = {
            "verb": verb,
            "group": version.rpartition("/")[0],
            "resource": plural,
            "subresource": subresource,
            **({} if kind in CLUSTER_WIDE else {"namespace": self.namespace}),
        }
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes},
        }
        answer = await self._call("POST", "SelfSubjectAccessReview", body=review)
        return bool(answer["status"].get("allowed"))

    async def version(self) -> str:
        """Kubernetes' version."""
        return str((await self.raw.async_version())["gitVersion"])

    async def _call(
        self,
        method: str,
        kind: str,
        name: str = "",
        *,
        body: Manifest | None = None,
        content_type: str = "application/json",
        params: dict[str, str] | None = None,
    ) -> Manifest:
        options: dict[str, Any] = {"params": params or {}}
        if body is not None:
            options |= {"content": json.dumps(body), "headers": {"content-type": content_type}}
        answer: Manifest = (await self._request(method, kind, name, **options)).json()
        return answer

    async def _request(self, method: str, kind: str, name: str = "", **options: Any) -> Any:
        version, plural = KINDS[kind]
        namespace = None if kind in CLUSTER_WIDE else self.namespace
        return await self._send(method, version, namespace, f"{plural}/{name}" if name else plural, options)

    async def _send(
        self, method: str, version: str, namespace: str | None, url: str, options: dict[str, Any]
    ) -> Any:
        """Send one request; returns the response when Kubernetes does not refuse."""
        for attempt in range(2):
            used = self.raw.auth.token
            async with (
                explained(self.server),
                # kr8s itself would log in again at any refusal, under the feet of all other requests.
                self.raw.call_api(
                    method, version=version, namespace=namespace, url=url, raise_for_status=False, **options
                ) as response,
            ):
                pass
            if response.status_code != 401 or attempt:
                break
            await self._log_in_again(used)
        if response.status_code >= 400:
            raise refused(response, self.namespace, url)
        return response

    async def _log_in_again(self, used: str | None) -> None:
        """Renew credentials that have expired, once for all who found out."""
        async with self._renewal:
            if self.raw.auth.token == used:
                with contextlib.suppress(Exception):  # then the old ones are refused once more, with its word
                    await self.raw.async_reauthenticate()
                    await self.raw._create_session()
                    _remove_keys(self.raw)


def _selector(wanted: dict[str, str] | None, parameter: str = "labelSelector") -> dict[str, str]:
    return {parameter: ",".join(f"{k}={v}" for k, v in wanted.items())} if wanted else {}


async def connect(where: Where) -> Api:
    """The API of a place, in the running loop.

    Raises
    ------
    MissingExtra
        Without dask-kubernetes.
    ConfigError
        When no kubeconfig, or no such context, is there.
    ClusterLost
        When the API server can't be reached, or is not the one that its certificate should name.
    ClusterError
        When it does not accept us.
    """
    key = (kubeconfig_of(where), _changed(kubeconfig_of(where)), where, id(asyncio.get_running_loop()))
    async with _connecting.setdefault(key, asyncio.Lock()):  # two logins at once would share kr8s' files
        if key not in _apis:
            _apis[key] = await _connect(where)
    return _apis[key]


_apis: dict[tuple[Any, ...], Api] = {}
"""Those that were made: each holds connections, and had to log in."""
_connecting: dict[tuple[Any, ...], asyncio.Lock] = {}


async def _connect(where: Where) -> Api:
    check("dask_kubernetes", "for clusters on Kubernetes")
    import kr8s

    async with explained("", kubeconfig_of(where)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of releases of Kubernetes that kr8s has not seen yet
            raw = await _authenticated(kr8s, where)
        raw.timeout = TIMEOUT
        _remove_keys(raw)
        return Api(raw, where)


def _remove_keys(raw: Any) -> None:
    """Remove the temporary files into which kr8s wrote keys, once it has read them; it never does."""
    given = {**getattr(raw.auth, "_user", {}), **getattr(raw.auth, "_cluster", {})}
    for entry, attribute in (
        ("client-key", "client_key_file"),
        ("client-certificate", "client_cert_file"),
        ("certificate-authority", "server_ca_file"),
    ):
        path = getattr(raw.auth, attribute, None)
        if path and f"{entry}-data" in given and entry not in given:
            Path(str(path)).unlink(missing_ok=True)


async def _authenticated(kr8s: Any, where: Where) -> Any:
    # Named, because kr8s does not notice when KUBECONFIG changes.
    options = {"kubeconfig": str(Path(kubeconfig_of(where)).expanduser())}
    options |= {name: value for name, value in vars(where).items() if value and name != "kubeconfig"}
    try:
        async with asyncio.timeout(2 * TIMEOUT):
            return await kr8s.asyncio.api(**options)
    except TimeoutError:
        raise ClusterLost(
            "The Kubernetes API server did not answer.", "Is a VPN to join, or the context another?"
        ) from None
    except (ValueError, KeyError, IndexError, FileNotFoundError) as error:
        raise ConfigError(no_access(where, error), "See: kubectl config get-contexts") from error


def _changed(kubeconfig: str) -> int:
    """When the file was last changed, as far as it is one."""
    try:
        return Path(kubeconfig).expanduser().stat().st_mtime_ns
    except OSError:
        return 0
