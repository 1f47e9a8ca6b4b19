"""What a container's process is started with: its arguments and variables, as the kubelet makes them."""

from __future__ import annotations

import base64
import re
from pathlib import Path

from tests.kubernetes import volumes
from tests.kubernetes.store import Object, Store


class ConfigError(Exception):
    """Why a container cannot be configured: its state is CreateContainerConfigError with this message."""


def variables(store: Store, pod: Object, container: Object) -> dict[str, str]:
    """The declared variables of a container."""
    namespace = pod["metadata"]["namespace"]
    found: dict[str, str] = {}
    for source in container.get("envFrom") or ():
        for kind in ("secretRef", "configMapRef"):
            if reference := source.get(kind):
                data = _data(store, namespace, kind, reference) or {}
                found |= {source.get("prefix", "") + key: value for key, value in data.items()}
    for each in container.get("env") or ():
        origin = each.get("valueFrom") or {}
        if "fieldRef" in origin:
            found[each["name"]] = volumes.field_value(pod, origin["fieldRef"]["fieldPath"])
        elif "resourceFieldRef" in origin:
            what, _, name = origin["resourceFieldRef"]["resource"].partition(".")
            found[each["name"]] = str(((container.get("resources") or {}).get(what) or {}).get(name, ""))
        elif origin:
            kind = next(key for key in ("secretKeyRef", "configMapKeyRef") if key in origin)
            reference = origin[kind]
            data = _data(store, namespace, kind, reference)
            if data is not None and reference["key"] not in data and not reference.get("optional"):
                thing = "Secret" if kind.startswith("secret") else "ConfigMap"
                raise ConfigError(
                    f"couldn't find key {reference['key']} in {thing} {namespace}/{reference['name']}"
                )
            if data and reference["key"] in data:
                found[each["name"]] = data[reference["key"]]
        else:
            found[each["name"]] = expand(str(each.get("value") or ""), found)
    return found


def _data(store: Store, namespace: str, kind: str, reference: Object) -> dict[str, str] | None:
    secret = kind.startswith("secret")
    found = store.find("secrets" if secret else "configmaps", namespace, reference["name"])
    if found is None:
        if reference.get("optional"):
            return None
        raise ConfigError(f'{"secret" if secret else "configmap"} "{reference["name"]}" not found')
    data = found.get("data") or {}
    return {key: base64.b64decode(value).decode() for key, value in data.items()} if secret else data


def expand(text: str, known: dict[str, str]) -> str:
    """``$(NAME)`` is the variable, if there is one, and ``$$`` a dollar."""
    pattern = r"\$(?:(\$)|\(([A-Za-z_][\w.-]*)\))"
    return re.sub(pattern, lambda found: "$" if found[1] else known.get(found[2], found[0]), text)


def rewrite(text: str, store: Store, pod: Object, paths: dict[str, Path]) -> str:
    """A text of a pod as it works without namespaces of its own: its address, names of services, mount paths.

    ``svc.ns`` and its longer forms are names of services everywhere; ``svc`` only as the host of an address.
    """
    text = volumes.rewrite_paths(text, paths)
    text = re.sub(r"(?<![\w.])0\.0\.0\.0(?![\w.])", pod["status"]["podIP"], text)
    own = pod["metadata"]["namespace"]
    for service in store.list("services"):
        name, namespace = service["metadata"]["name"], service["metadata"]["namespace"]
        address = service["spec"].get("clusterIP")
        if not address or address == "None":
            continue
        long = rf"(?<![\w.-]){re.escape(name)}\.{re.escape(namespace)}(\.svc(\.cluster\.local)?)?(?![\w.-])"
        text = re.sub(long, address, text)
        if namespace == own:
            escaped = re.escape(name)
            text = re.sub(rf"(?<=://){escaped}(?=[:/]|$)|^{escaped}(?=:\d+$)", address, text)
    return text
