"""The volumes of a pod, as directories of its own.

There are no mount namespaces: what a pod finds at a mountPath is in a private directory, and arguments and variables
that begin with the mountPath are changed to name that. Paths inside of files are not.
"""

from __future__ import annotations

import base64
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.kubernetes.store import Object, Store


class NotMounted(Exception):
    """A volume that is not there yet, in the words of the kubelet's event."""


class Volumes:
    """The volumes of one pod."""

    def __init__(self, store: Store, pod: Object, directory: Path, token: Callable[[], str]) -> None:
        self._store, self._pod, self._directory, self._token = store, pod, directory, token
        self._namespace = pod["metadata"]["namespace"]

    def mount(self, claims: Path) -> None:
        """Fill all volumes; ``claims`` is where persistent volumes live."""
        for volume in self._pod["spec"].get("volumes") or ():
            place = self._directory / volume["name"]
            try:
                if "persistentVolumeClaim" in volume:
                    name = volume["persistentVolumeClaim"]["claimName"]
                    if not self._store.find("persistentvolumeclaims", self._namespace, name):
                        raise LookupError(f'persistentvolumeclaim "{name}" not found')
                    (claims / self._namespace / name).mkdir(parents=True, exist_ok=True)
                    if not place.is_symlink():
                        place.symlink_to(claims / self._namespace / name)
                    continue
                place.mkdir(parents=True, exist_ok=True)
                if "projected" in volume:
                    for source in volume["projected"].get("sources") or ():
                        self._fill(place, source, volume["projected"].get("defaultMode", 0o644))
                else:
                    self._fill(place, volume, 0o644)
            except LookupError as error:
                message = f'MountVolume.SetUp failed for volume "{volume["name"]}" : {error.args[0]}'
                raise NotMounted(message) from error

    def _fill(self, place: Path, source: dict[str, Any], mode: int) -> None:
        for kind, plural in (("secret", "secrets"), ("configMap", "configmaps")):
            if wanted := source.get(kind):
                files = self._data(kind, plural, wanted)
                mode = wanted.get("defaultMode", mode)
                items = wanted.get("items") or [{"key": key, "path": key} for key in files]
                for item in items:
                    if item["key"] not in files:
                        raise LookupError(f"references non-existent {kind.lower()} key: {item['key']}")
                    self._write(place / item["path"], files[item["key"]], item.get("mode", mode))
        if "serviceAccountToken" in source:
            self._write(place / source["serviceAccountToken"]["path"], self._token().encode(), 0o600)
        for item in (source.get("downwardAPI") or {}).get("items") or ():
            self._write(
                place / item["path"], field_value(self._pod, item["fieldRef"]["fieldPath"]).encode(), mode
            )

    def _data(self, kind: str, plural: str, wanted: dict[str, Any]) -> dict[str, bytes]:
        name = wanted.get("secretName") or wanted["name"]
        found = self._store.find(plural, self._namespace, name)
        if found is None:
            if wanted.get("optional"):
                return {}
            raise LookupError(f'{kind.lower()} "{name}" not found')
        if kind == "secret":
            return {key: base64.b64decode(value) for key, value in (found.get("data") or {}).items()}
        files = {key: value.encode() for key, value in (found.get("data") or {}).items()}
        return files | {
            key: base64.b64decode(value) for key, value in (found.get("binaryData") or {}).items()
        }

    @staticmethod
    def _write(file: Path, content: bytes, mode: int) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.unlink(missing_ok=True)
        file.touch(mode=0o600)
        file.write_bytes(content)
        file.chmod(mode)

    def paths(self, container: Object) -> dict[str, Path]:
        """Where the container's mount paths are in truth."""
        found = {}
        volumes = {each["name"]: each for each in self._pod["spec"].get("volumes") or ()}
        for mount in container.get("volumeMounts") or ():
            host = volumes[mount["name"]].get("hostPath")
            place = Path(host["path"]) if host else self._directory / mount["name"]
            if mount.get("subPath"):
                place = place / mount["subPath"]
                if not place.exists():
                    place.mkdir(parents=True)
            found[mount["mountPath"].rstrip("/")] = place
        return found

    def remove(self) -> None:
        shutil.rmtree(self._directory, ignore_errors=True)


def rewrite_paths(text: str, paths: dict[str, Path]) -> str:
    for path in sorted(paths, key=len, reverse=True):
        text = re.sub(
            rf"(?<![\w./-]){re.escape(path)}(?![\w.-])", lambda _, path=path: str(paths[path]), text
        )
    return text


def field_value(pod: Object, path: str) -> str:
    """What a fieldRef means."""
    if found := re.fullmatch(r"metadata\.(labels|annotations)\['(.+)'\]", path):
        return str((pod["metadata"].get(found[1]) or {}).get(found[2], ""))
    value: Any = pod
    for step in path.split("."):
        value = value.get(step, "") if isinstance(value, dict) else ""
    return str(value)
