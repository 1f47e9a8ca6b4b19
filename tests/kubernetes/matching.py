"""Which objects a selector means, and what a patch makes of one."""

from __future__ import annotations

import copy
import re
from typing import Any

from tests.kubernetes.errors import StatusError, bad_request


def labels_match(selector: str, labels: dict[str, str] | None) -> bool:
    """A label selector as in a query: ``a=b,c!=d,e in (f,g),h,!i``."""
    labels = labels or {}
    for term in re.split(r",(?![^(]*\))", selector):
        if not (term := term.strip()):
            continue
        if found := re.fullmatch(r"([^\s=!]+)\s+(in|notin)\s*\(([^)]*)\)", term):
            key, operator, values = found.groups()
            if (labels.get(key) in [each.strip() for each in values.split(",")]) != (operator == "in"):
                return False
        elif found := re.fullmatch(r"([^\s=!]+)\s*(==|=|!=)\s*(\S*)", term):
            key, operator, value = found.groups()
            if (labels.get(key) == value) == (operator == "!="):
                return False
        elif term.startswith("!"):
            if term[1:] in labels:
                return False
        elif re.fullmatch(r"[\w./-]+", term):
            if term not in labels:
                return False
        else:
            raise bad_request(
                f'unable to parse requirement: found "{term}", expected: in, notin, =, ==, !=, gt, lt'
            )
    return True


def object_labels_match(selector: dict[str, Any] | None, labels: dict[str, str] | None) -> bool:
    """A selector as in an object: ``matchLabels`` and ``matchExpressions``."""
    selector, labels = selector or {}, labels or {}
    if any(labels.get(key) != value for key, value in (selector.get("matchLabels") or {}).items()):
        return False
    return all(expression_matches(each, labels) for each in selector.get("matchExpressions") or ())


def expression_matches(expression: dict[str, Any], labels: dict[str, str]) -> bool:
    key, operator, values = expression["key"], expression["operator"], expression.get("values") or []
    return {
        "In": labels.get(key) in values,
        "NotIn": labels.get(key) not in values,
        "Exists": key in labels,
        "DoesNotExist": key not in labels,
    }[operator]


def fields_match(selector: str, obj: dict[str, Any]) -> bool:
    """A field selector: ``metadata.name=x,status.phase!=Running``."""
    for term in filter(None, (each.strip() for each in selector.split(","))):
        found = re.fullmatch(r"([\w.]+)(==|=|!=)(.*)", term)
        if not found:
            raise bad_request(f"invalid selector: '{selector}'; can't understand '{term}'")
        path, operator, value = found.groups()
        actual: Any = obj
        for step in path.split("."):
            actual = actual.get(step) if isinstance(actual, dict) else None
        if (str(actual if actual is not None else "") == value) == (operator == "!="):
            return False
    return True


def merge_patch(target: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge_patch(result.get(key), value)
    return result


def strategic_merge_patch(target: Any, patch: Any) -> Any:
    """Like ``merge_patch``, but lists whose members have names are merged by name."""
    if isinstance(patch, dict):
        result = dict(target) if isinstance(target, dict) else {}
        for key, value in patch.items():
            if value is None:
                result.pop(key, None)
            else:
                result[key] = strategic_merge_patch(result.get(key), value)
        return result
    if (
        isinstance(target, list)
        and patch
        and all(isinstance(each, dict) and "name" in each for each in patch)
    ):
        merged = {each["name"]: each for each in target}
        for each in patch:
            merged[each["name"]] = strategic_merge_patch(merged.get(each["name"]), each)
        return list(merged.values())
    return copy.deepcopy(patch)


def json_patch(target: Any, operations: list[dict[str, Any]]) -> Any:
    """RFC 6902."""
    document = {"": copy.deepcopy(target)}

    def find(pointer: str) -> tuple[Any, Any]:
        steps = [each.replace("~1", "/").replace("~0", "~") for each in pointer.split("/")]
        parent: Any = document
        for step in steps[:-1]:
            parent = parent[int(step)] if isinstance(parent, list) else parent[step]
        last: Any = steps[-1]
        if isinstance(parent, list):
            last = len(parent) if last == "-" else int(last)
        return parent, last

    try:
        for each in operations:
            parent, key = find(each["path"])
            kind = each["op"]
            if kind == "test":
                if parent[key] != each["value"]:
                    raise KeyError(each["path"])
                continue
            value = each.get("value")
            if kind in ("move", "copy"):
                origin, origin_key = find(each["from"])
                value = copy.deepcopy(origin[origin_key])
                if kind == "move":
                    del origin[origin_key]
            if kind == "remove":
                del parent[key]
            elif isinstance(parent, list) and kind != "replace":
                parent.insert(key, value)
            else:
                if kind == "replace":
                    parent[key]
                parent[key] = value
    except (KeyError, IndexError, TypeError, ValueError) as error:
        message = "the server rejected our request due to an error in our request"
        raise StatusError(422, "Invalid", message) from error
    return document[""]
