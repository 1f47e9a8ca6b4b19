"""How a model is named: ``models:/digits@champion``, ``digits/3``, ``digits``, ``digits@champion#int8``."""

from __future__ import annotations

import re
from dataclasses import dataclass

from nbcloud.errors import UsageError

SCHEME = "models:/"
_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9])?"
_REFERENCE = re.compile(
    rf"(?:{SCHEME})?(?P<name>{_NAME})(?:/(?P<version>[0-9]{{1,9}})|@(?P<alias>{_NAME}))?(?:#(?P<variant>{_NAME}))?"
)


@dataclass(frozen=True)
class Reference:
    """Which version of which model; the newest where neither version nor alias is said."""

    name: str
    version: int | None = None
    alias: str = ""
    variant: str = ""

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Read a reference.

        Raises
        ------
        UsageError
            When it is none.
        """
        found = _REFERENCE.fullmatch(text)
        if found is None:
            raise UsageError(
                f"{text!r} names no model.", "Write for example: digits, digits/3, digits@champion#int8"
            )
        version = found["version"]
        return cls(
            found["name"], int(version) if version else None, found["alias"] or "", found["variant"] or ""
        )

    def exact(self) -> Reference:
        """The reference itself, when it says which version.

        Raises
        ------
        UsageError
            When it leaves that open.
        """
        if self.version is None and not self.alias:
            raise UsageError(f"Which version of {self.name}?", f"Write for example: {self.name}/1")
        return self

    def __str__(self) -> str:
        which = f"/{self.version}" if self.version is not None else f"@{self.alias}" if self.alias else ""
        return f"{self.name}{which}" + (f"#{self.variant}" if self.variant else "")


def is_name(name: object) -> bool:
    """Whether a model, an alias or a variant can have this name."""
    return isinstance(name, str) and re.fullmatch(_NAME, name) is not None


def check_name(name: str, what: str) -> str:
    """The name, when it can be one.

    Raises
    ------
    UsageError
        When it can't: names become parts of paths and addresses.
    """
    if not is_name(name):
        raise UsageError(
            f"{name!r} can't be the name of {what}.",
            "Use letters, digits, '.', '_' and '-', 100 at most, with a letter or digit at both ends.",
        )
    return name


def check_alias(alias: str) -> str:
    """The alias, when it can be one.

    Raises
    ------
    UsageError
        When it can't: it is no name, or a version's number.
    """
    check_name(alias, "an alias")
    if alias.isdigit():
        raise UsageError(
            f"{alias!r} can't be an alias, since people would take it for a version.",
            "First comes the version, then what it is called: %cloud models alias digits/3 champion",
        )
    return alias
