"""Kubernetes as a pod's own account sees it; needs Dask and nothing else."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from tornado.httpclient import AsyncHTTPClient, HTTPClientError

DASK = "kubernetes.dask.org/v1"


class PodAccount:
    """The API server, as the pod's own account sees it."""

    def __init__(self, namespace: str, account: str) -> None:
        host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
        self._server = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
        self._namespace = namespace
        self._account = Path(account)
        self._client = AsyncHTTPClient()

    async def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        # Read at each call: Kubernetes renews it every hour.
        token = (self._account / "token").read_text().strip()
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/merge-patch+json"}
        answer = await self._client.fetch(
            f"{self._server}{path}",
            method=method,
            headers=headers,
            body=json.dumps(body) if body is not None else None,
            ca_certs=str(self._account / "ca.crt"),
            request_timeout=15,
        )
        found: dict[str, Any] = json.loads(answer.body)
        return found

    def _path(self, version: str, plural: str, name: str) -> str:
        return f"/apis/{version}/namespaces/{self._namespace}/{plural}/{name}"

    async def get(self, version: str, plural: str, name: str) -> dict[str, Any]:
        """One object."""
        return await self._call("GET", self._path(version, plural, name))

    async def delete(self, version: str, plural: str, name: str) -> None:
        """Remove an object; one that is gone already is no error."""
        try:
            await self._call("DELETE", f"{self._path(version, plural, name)}?propagationPolicy=Background")
        except HTTPClientError as error:
            if error.code != 404:
                raise

    async def workers(self, cluster: str) -> list[dict[str, Any]]:
        """The pods of a cluster's workers."""
        labels = f"dask.org/cluster-name%3D{cluster},dask.org/component%3Dworker"
        path = f"/api/v1/namespaces/{self._namespace}/pods?labelSelector={labels}"
        found: list[dict[str, Any]] = (await self._call("GET", path))["items"]
        return found

    async def replicas(self, group: str) -> int:
        """As many workers as the operator was asked for; none when the group has not been made yet."""
        try:
            found = await self.get(DASK, "daskworkergroups", group)
        except HTTPClientError as error:
            if error.code == 404:
                return 0
            raise
        return int(found["spec"]["worker"]["replicas"])

    async def worker_names(self, group: str) -> list[str]:
        """Workers of a group as Kubernetes knows them, those included that never joined."""
        labels = f"dask.org/workergroup-name%3D{group}"
        path = f"/apis/apps/v1/namespaces/{self._namespace}/deployments?labelSelector={labels}"
        return [each["metadata"]["name"] for each in (await self._call("GET", path))["items"]]

    async def set_replicas(self, group: str, number: int) -> None:
        """Have the operator make workers."""
        path = self._path(DASK, "daskworkergroups", group)
        await self._call("PATCH", path, {"spec": {"worker": {"replicas": number}}})

    async def remove_workers(self, group: str, names: list[str], number: int) -> None:
        """Remove retired workers first, so that the operator finds as many as there should be."""
        for name in names:
            await self.delete("apps/v1", "deployments", name)
        await self.set_replicas(group, number)
