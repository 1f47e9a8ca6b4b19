"""The API server: what clients and operators talk to, over TLS and with tokens."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import copy
import json
import ssl
from collections import Counter
from typing import Any

import yaml
from aiohttp import web

from tests.kubernetes import discovery, errors, matching
from tests.kubernetes.access import Access, User
from tests.kubernetes.admission import Admission
from tests.kubernetes.paths import Target, parse
from tests.kubernetes.pod_streams import PodStreams
from tests.kubernetes.resources import Resource
from tests.kubernetes.store import Object, Store

_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


class ApiServer:
    """HTTP in front of the store. It can be stopped and started again at the same address: the store stays."""

    def __init__(
        self, store: Store, access: Access, admission: Admission, streams: PodStreams, context: ssl.SSLContext
    ):
        self._store, self._access, self._admission, self._streams = store, access, admission, streams
        self._context = context
        self._runner: web.AppRunner | None = None
        self.port = 0
        self.watches: Counter[tuple[str, str]] = Counter()
        """Who watches what now: (user, resource)."""
        self.requests: list[tuple[str, str, str, int]] = []
        """All that was asked: (user, method, path, status)."""

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    async def start(self) -> None:
        app = web.Application(client_max_size=8 * 1024**2)
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.01)
        await self._runner.setup()
        site = web.TCPSite(
            self._runner, "127.0.0.1", self.port, ssl_context=self._context, reuse_address=True
        )
        await site.start()
        self.port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]

    async def stop(self) -> None:
        """Close the port and drop all connections, watches and forwards included."""
        if self._runner:
            for connection in list(self._runner.server.connections):  # type: ignore[union-attr]
                if connection.transport:
                    connection.transport.abort()
            await self._runner.cleanup()
        self._runner = None

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        user = User("-")
        try:
            user = self._access.authenticate(request.headers.get("Authorization", ""))
            response = await self._route(request, user)
        except errors.StatusError as error:
            response = web.json_response(error.body(), status=error.code)
        except (json.JSONDecodeError, yaml.YAMLError) as error:
            response = web.json_response(
                errors.bad_request(f"the object provided is unrecognized: {error}").body(), status=400
            )
        self.requests.append((user.name, request.method, request.path, response.status))
        return response

    async def _route(self, request: web.Request, user: User) -> web.StreamResponse:
        parts = request.path.strip("/").split("/")
        if request.method == "POST" and parts[-1] in discovery.REVIEWS:
            review = discovery.review(self._access, user, parts[-1], await request.json())
            return web.json_response(review, status=201)
        if (found := discovery.answer(self._store, request.path.rstrip("/"))) is not None:
            return web.json_response(found)
        target = parse(self._store, parts)
        if target is None:
            return web.Response(status=404, text="404 page not found\n")
        watching = request.query.get("watch") in ("true", "1")
        read = "get" if target.name else "watch" if watching else "list"
        verb = _VERBS.get(request.method, read)
        if verb == "delete" and not target.name:
            verb = "deletecollection"
        if target.part == "portforward":
            verb = "create" if request.method == "POST" else "get"
        self._access.check(user, verb, target.resource, target.part, target.namespace, target.name)
        if target.part in ("log", "portforward"):
            pod = self._store.get("pods", target.namespace, target.name)
            return await getattr(self._streams, target.part)(request, pod)
        if verb == "watch":
            return await self._watch(request, target, user)
        body = await request.read()
        return getattr(self, f"_{verb}")(request, target, body)

    # Reading

    def _get(self, request: web.Request, target: Target, body: bytes) -> web.Response:
        found = self._store.get(target.resource.full_name, target.namespace, target.name)
        return web.json_response(self._scale_of(target.resource, found) if target.part == "scale" else found)

    def _select(self, request: web.Request, target: Target) -> list[Object]:
        labels, fields = request.query.get("labelSelector", ""), request.query.get("fieldSelector", "")
        return self._store.list(target.resource.full_name, target.namespace, labels, fields)

    def _list(self, request: web.Request, target: Target, body: bytes) -> web.Response:
        items = self._select(request, target)
        metadata: Object = {"resourceVersion": str(self._store.version)}
        start = int(base64.b64decode(request.query.get("continue", "") or "MA=="))
        limit = int(request.query.get("limit", 0))
        if limit and start + limit < len(items):
            metadata["continue"] = base64.b64encode(str(start + limit).encode()).decode()
            metadata["remainingItemCount"] = len(items) - start - limit
        items = items[start : start + limit] if limit else items[start:]
        kind = target.resource
        return web.json_response(
            {"kind": f"{kind.kind}List", "apiVersion": kind.api_version, "metadata": metadata, "items": items}
        )

    async def _watch(self, request: web.Request, target: Target, user: User) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        since = int(request.query.get("resourceVersion") or 0)
        before = self._select(request, target) if not since else []
        since = since or self._store.version
        await response.prepare(request)
        key = (user.name, target.resource.full_name)
        self.watches[key] += 1

        async def send(type_: str, obj: Object) -> None:
            await response.write(json.dumps({"type": type_, "object": obj}).encode() + b"\n")

        try:
            async with asyncio.timeout(float(request.query.get("timeoutSeconds") or 1800)):
                for each in before:
                    await send("ADDED", each)
                async for change in self._store.changes(since):
                    if change.resource == key[1] and (
                        type_ := self._seen_as(request, target, change.before, change.object)
                    ):
                        await send("DELETED" if change.type == "DELETED" else type_, change.object)
        except errors.StatusError as error:
            await send("ERROR", error.body())
        except TimeoutError:
            pass
        except ConnectionError:
            return response
        finally:
            self.watches[key] -= 1
        with contextlib.suppress(ConnectionError):
            await response.write_eof()
        return response

    @staticmethod
    def _seen_as(request: web.Request, target: Target, before: Object | None, after: Object) -> str:
        """What a change is to a watch with selectors, which sees objects come and go as they begin or cease to match."""

        def matches(obj: Object | None) -> bool:
            if obj is None or target.namespace not in (None, obj["metadata"].get("namespace")):
                return False
            return (
                matching.labels_match(request.query.get("labelSelector", ""), obj["metadata"].get("labels"))
                and matching.fields_match(request.query.get("fieldSelector", ""), obj)
                and target.name in ("", obj["metadata"]["name"])
            )

        was, is_ = matches(before), matches(after)
        return ("MODIFIED" if was else "ADDED") if is_ else ("DELETED" if was else "")

    # Writing

    def _create(self, request: web.Request, target: Target, body: bytes) -> web.Response:
        kind = target.resource
        obj = self._read(request, body)
        self._check_kind(kind, obj)
        metadata = obj.setdefault("metadata", {})
        if kind.namespaced and metadata.setdefault("namespace", target.namespace) != target.namespace:
            message = "the namespace of the provided object does not match the namespace sent on the request"
            raise errors.bad_request(message)
        obj = self._admission.create(kind, obj)
        if request.query.get("dryRun") != "All":
            obj = self._store.create(kind.full_name, obj)
        return web.json_response(obj, status=201)

    def _update(self, request: web.Request, target: Target, body: bytes) -> web.Response:
        return web.json_response(self._write(target, self._read(request, body)))

    def _patch(self, request: web.Request, target: Target, body: bytes) -> web.Response:
        kind = target.resource
        patch = self._read(request, body)
        before = self._store.find(kind.full_name, target.namespace, target.name)
        if before is None and request.content_type == "application/apply-patch+yaml":
            return self._create(request, target, body)
        before = self._store.get(kind.full_name, target.namespace, target.name)
        if target.part == "scale":
            before = self._scale_of(kind, before)
        match request.content_type:
            case "application/json-patch+json":
                after = matching.json_patch(before, patch)
            case "application/strategic-merge-patch+json" if kind.schema is None:
                after = matching.strategic_merge_patch(before, patch)
            case "application/merge-patch+json" | "application/apply-patch+yaml":
                after = matching.merge_patch(before, patch)
            case other:
                message = f"the body of the request was in an unknown format - accepted media types do not include: {other}"
                raise errors.StatusError(415, "UnsupportedMediaType", message)
        return web.json_response(self._write(target, after))

    def _write(self, target: Target, obj: Object) -> Object:
        kind = target.resource
        if target.part == "scale":
            stored = copy.deepcopy(self._store.get(kind.full_name, target.namespace, target.name))
            *path, last = kind.scale_path.strip(".").split(".")
            parent = stored
            for step in path:
                parent = parent.setdefault(step, {})
            parent[last] = obj["spec"].get("replicas", 0)
            return self._scale_of(kind, self._store.update(kind.full_name, stored))
        self._check_kind(kind, obj)
        metadata = obj.setdefault("metadata", {})
        if metadata.get("name") != target.name:
            raise errors.bad_request(
                f"the name of the object ({metadata.get('name')}) does not match the name on the URL ({target.name})"
            )
        metadata["namespace"] = target.namespace or ""
        self._admission.check_metadata(kind, metadata)
        return self._store.update(kind.full_name, obj, target.part)

    def _delete(self, request: web.Request, target: Target, body: bytes) -> web.Response:
        kind = target.resource
        obj = self._store.get(kind.full_name, target.namespace, target.name)
        obj = self._remove(request, kind, obj, self._read(request, body) if body else {})
        if self._store.find(kind.full_name, target.namespace, target.name):
            return web.json_response(obj)
        details = {
            "name": target.name,
            "group": kind.group,
            "kind": kind.plural,
            "uid": obj["metadata"]["uid"],
        }
        return web.json_response(
            {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}
        )

    def _deletecollection(self, request: web.Request, target: Target, body: bytes) -> web.Response:
        items = self._select(request, target)
        for each in items:
            self._remove(request, target.resource, each, self._read(request, body) if body else {})
        kind = target.resource
        metadata = {"resourceVersion": str(self._store.version)}
        return web.json_response(
            {"kind": f"{kind.kind}List", "apiVersion": kind.api_version, "metadata": metadata, "items": items}
        )

    def _remove(self, request: web.Request, kind: Resource, obj: Object, options: Object) -> Object:
        grace = options.get("gracePeriodSeconds", request.query.get("gracePeriodSeconds"))
        wanted = (options.get("preconditions") or {}).get("uid")
        if wanted and wanted != obj["metadata"]["uid"]:
            raise errors.conflict(
                kind, obj["metadata"]["name"], f"the UID in the precondition ({wanted}) does not match"
            )
        policy = options.get("propagationPolicy") or request.query.get("propagationPolicy", "")
        return self._store.delete(kind.full_name, obj, None if grace is None else int(grace), policy)

    @staticmethod
    def _read(request: web.Request, body: bytes) -> Any:
        return yaml.safe_load(body) if "yaml" in request.content_type else json.loads(body or b"{}")

    @staticmethod
    def _check_kind(kind: Resource, obj: Object) -> None:
        for key, expected in (("kind", kind.kind), ("apiVersion", kind.api_version)):
            if obj.setdefault(key, expected) != expected:
                raise errors.bad_request(
                    f"{obj.get('kind')} in version {obj.get('apiVersion')!r} cannot be handled as a {kind.kind}"
                )

    def _scale_of(self, kind: Resource, obj: Object) -> Object:
        replicas: Any = obj
        for step in kind.scale_path.strip(".").split("."):
            replicas = replicas.get(step, {}) if isinstance(replicas, dict) else {}
        return {
            "kind": "Scale",
            "apiVersion": "autoscaling/v1",
            "metadata": {
                key: value
                for key, value in obj["metadata"].items()
                if key in ("name", "namespace", "uid", "resourceVersion")
            },
            "spec": {"replicas": replicas or 0},
            "status": {"replicas": obj.get("status", {}).get("replicas", 0)},
        }
