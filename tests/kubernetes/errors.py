"""The refusals of an API server, in its own words."""

from __future__ import annotations

from typing import Any

from tests.kubernetes.resources import Resource


class StatusError(Exception):
    """An answer of kind ``Status``."""

    def __init__(self, code: int, reason: str, message: str, **details: Any) -> None:
        super().__init__(message)
        self.code, self.reason, self.message, self.details = code, reason, message, details

    def body(self) -> dict[str, Any]:
        return {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "details": self.details,
            "code": self.code,
        }


def not_found(resource: Resource, name: str) -> StatusError:
    message = f'{resource.full_name} "{name}" not found'
    return StatusError(404, "NotFound", message, name=name, group=resource.group, kind=resource.plural)


def already_exists(resource: Resource, name: str) -> StatusError:
    message = f'{resource.full_name} "{name}" already exists'
    return StatusError(409, "AlreadyExists", message, name=name, group=resource.group, kind=resource.plural)


def conflict(resource: Resource, name: str, why: str = "") -> StatusError:
    why = why or "the object has been modified; please apply your changes to the latest version and try again"
    message = f'Operation cannot be fulfilled on {resource.full_name} "{name}": {why}'
    return StatusError(409, "Conflict", message, name=name, group=resource.group, kind=resource.plural)


def forbidden(resource: Resource, name: str, why: str) -> StatusError:
    message = (
        f'{resource.full_name} "{name}" is forbidden: {why}'
        if name
        else f"{resource.full_name} is forbidden: {why}"
    )
    return StatusError(403, "Forbidden", message, name=name, group=resource.group, kind=resource.plural)


def invalid(resource: Resource, name: str, causes: list[str]) -> StatusError:
    kind = f"{resource.kind}.{resource.group}" if resource.group else resource.kind
    why = causes[0] if len(causes) == 1 else f"[{', '.join(causes)}]"
    message = f'{kind} "{name}" is invalid: {why}'
    return StatusError(422, "Invalid", message, name=name, group=resource.group, kind=resource.kind)


def bad_request(message: str) -> StatusError:
    return StatusError(400, "BadRequest", message)


def expired(wanted: int, oldest: int) -> StatusError:
    return StatusError(410, "Expired", f"too old resource version: {wanted} ({oldest})")
