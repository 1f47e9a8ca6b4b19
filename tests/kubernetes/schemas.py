"""Structural schemas of custom resources: unknown fields are dropped, defaults set, the rest is checked."""

from __future__ import annotations

import copy
from typing import Any

_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
}


def conform(value: Any, schema: dict[str, Any], root: bool = True) -> Any:
    """The value as the API server stores it: pruned, and with defaults."""
    if isinstance(value, list):
        return [conform(each, schema.get("items") or {}, root=False) for each in value]
    if not isinstance(value, dict) or (not schema.get("properties") and "additionalProperties" in schema):
        inner = schema.get("additionalProperties")
        if isinstance(value, dict) and isinstance(inner, dict):
            return {key: conform(each, inner, root=False) for key, each in value.items()}
        return value
    properties: dict[str, Any] = schema.get("properties") or {}
    keep_unknown = bool(schema.get("x-kubernetes-preserve-unknown-fields"))
    always = (
        {"apiVersion", "kind", "metadata"} if root or schema.get("x-kubernetes-embedded-resource") else set()
    )
    result = {}
    for key, each in value.items():
        if key in always:
            result[key] = each
        elif key in properties:
            if each is not None or properties[key].get("nullable"):
                result[key] = conform(each, properties[key], root=False)
        elif keep_unknown:
            result[key] = each
    for key, inner in properties.items():
        if key not in result and "default" in inner:
            result[key] = copy.deepcopy(inner["default"])
    return result


def violations(value: Any, schema: dict[str, Any], path: str = "") -> list[str]:
    """What the API server says about a value that does not fit."""
    if schema.get("x-kubernetes-int-or-string"):
        return (
            [] if isinstance(value, int | str) else [f"{path}: Invalid value: must be of type int-or-string"]
        )
    expected = schema.get("type")
    wrong = expected in _TYPES and not isinstance(value, _TYPES[expected])
    if wrong or (isinstance(value, bool) and expected in ("integer", "number")):
        actual = next((name for name, types in _TYPES.items() if type(value) in types), "null")
        return [f'{path}: Invalid value: "{actual}": {path} in body must be of type {expected}: "{actual}"']
    found: list[str] = []
    if isinstance(value, dict):
        inside = f"{path}." if path else ""
        found += [f"{inside}{key}: Required value" for key in schema.get("required", ()) if key not in value]
        properties = schema.get("properties") or {}
        for key, each in value.items():
            inner = properties.get(key) or schema.get("additionalProperties")
            if isinstance(inner, dict):
                found += violations(each, inner, f"{inside}{key}")
    elif isinstance(value, list):
        for index, each in enumerate(value):
            found += violations(each, schema.get("items") or {}, f"{path}[{index}]")
    elif schema.get("enum") and value not in schema["enum"]:
        allowed = ", ".join(f'"{each}"' for each in schema["enum"])
        found.append(f'{path}: Unsupported value: "{value}": supported values: {allowed}')
    elif isinstance(value, int | float) and value < schema.get("minimum", value):
        minimum = schema["minimum"]
        found.append(
            f"{path}: Invalid value: {value}: {path} in body should be greater than or equal to {minimum}"
        )
    return found
