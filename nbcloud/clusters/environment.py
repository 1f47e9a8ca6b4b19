"""Which Python and packages the two sides of a cluster have, and where they differ in what matters.

Workers that lack some of it read this module, too; so the way to a cluster is imported where it is needed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from nbcloud.clusters.base import ClusterInfo
from nbcloud.errors import ClusterError, MissingExtra

NEEDED = (
    "dask",
    "distributed",
    "cloudpickle",
    "ipykernel",
    "ipython",
    "jupyter_client",
    "platformdirs",
    "psutil",
    "xxhash",
)
"""What nbcloud can't do without where sessions live."""
COMPARED = (
    "dask",
    "distributed",
    "cloudpickle",
    "numpy",
    "pandas",
    "msgpack",
    "torch",
    "tensorflow",
    "scikit-learn",
)
"""What should be of like versions, because values of it travel or it carries them."""

SOURCE = '''
def probe(names):
    """Facts about this process, as JSON; needs nothing but Python itself."""
    import importlib.metadata, json, platform, sys
    if names is None:
        found = {each.metadata["Name"]: each.version for each in importlib.metadata.distributions()}
    else:
        found = {}
        for name in names:
            try:
                found[name] = importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                pass
    return json.dumps({"python": platform.python_version(), "executable": sys.executable, "packages": found})


async def probe_aside(names):
    """The same, while the process goes on with its work."""
    import asyncio
    return await asyncio.to_thread(probe, names)
'''
"""As text, because it has to be carried to processes that don't know nbcloud."""


@dataclass(frozen=True)
class Facts:
    """One side."""

    python: str
    executable: str = ""
    packages: dict[str, str] = field(default_factory=dict)
    """Versions, by names in small letters with ``-``."""

    @classmethod
    def of(cls, text: str) -> Facts:
        """Read what the probe answered."""
        answer = json.loads(text)
        packages = {normal(name): version for name, version in answer["packages"].items()}
        return cls(answer["python"], answer["executable"], packages)


def normal(name: str) -> str:
    """A package's name as indexes spell it."""
    return name.lower().replace("_", "-").replace(".", "-")


def probe_function(name: str = "probe") -> bytes:
    """The probe, pickled by value."""
    import cloudpickle

    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec(SOURCE, namespace)  # noqa: S102 - a text of this module
    pickled: bytes = cloudpickle.dumps(namespace[name])
    return pickled


def here(names: Iterable[str] | None = NEEDED + COMPARED) -> Facts:
    """What is so in the process that asks."""
    return Facts.of(said(names))


def said(names: Iterable[str] | None = NEEDED + COMPARED) -> str:
    """The same, as it travels."""
    namespace: dict[str, Any] = {}
    exec(SOURCE, namespace)  # noqa: S102 - a text of this module
    text: str = namespace["probe"](None if names is None else list(names))
    return text


def there(
    info: ClusterInfo, names: Iterable[str] | None = NEEDED + COMPARED, *, timeout: float = 15.0
) -> dict[str, Facts]:
    """The scheduler (``scheduler``) and each worker, by its address.

    Raises
    ------
    ClusterLost
        When the scheduler does not answer.
    """
    import pickle

    from nbcloud.clusters import wire

    function = probe_function()
    arguments = pickle.dumps((None if names is None else list(names),))
    asked = {"function": function, "args": arguments}
    answer = wire.ask(info, "run_function", timeout=timeout, **asked)
    found = {"scheduler": _facts(answer)}
    message = {"op": "run", **asked}
    workers = wire.ask(info, "broadcast", timeout=timeout, msg=message, on_error="return")
    return {**found, **{address: _facts(each) for address, each in workers.items() if isinstance(each, dict)}}


def of_worker(info: ClusterInfo, address: str, *, timeout: float = 15.0) -> Facts:
    """All packages of one worker.

    Raises
    ------
    ClusterError
        When it does not answer.
    """
    import pickle

    from nbcloud.clusters import wire

    message = {"op": "run", "function": probe_function("probe_aside"), "args": pickle.dumps((None,))}
    options = {"workers": [address], "on_error": "return"}
    answer = wire.ask(info, "broadcast", timeout=timeout, msg=message, **options).get(address)
    if not isinstance(answer, dict):
        raise ClusterError(f"The worker {address} of {info.name!r} does not answer.")
    return _facts(answer)


INSTALL = '''
async def install(packages):
    """Have pip install packages for the Python of this process; returns what it said when it failed."""
    import asyncio, importlib, sys
    command = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--quiet", *packages]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=asyncio.subprocess.STDOUT)
    said, _ = await process.communicate()
    importlib.invalidate_caches()
    return said.decode(errors="replace")[-2000:] if process.returncode else ""
'''


def install(info: ClusterInfo, packages: list[str], *, timeout: float = 900.0) -> dict[str, str]:
    """Have pip install packages on each worker that there is; what runs there goes on.

    Returns
    -------
    dict
        What pip said where it failed, by the worker's address.
    """
    import pickle

    import cloudpickle

    from nbcloud.clusters import wire

    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec(INSTALL, namespace)  # noqa: S102 - a text of this module
    function = cloudpickle.dumps(namespace["install"])
    message = {"op": "run", "function": function, "args": pickle.dumps((packages,))}
    answers = wire.ask(info, "broadcast", timeout=timeout, msg=message, on_error="return")
    said = {
        address: answer["result"] if answer.get("status") == "OK" else str(answer.get("text", answer))
        for address, answer in answers.items()
        if isinstance(answer, dict)
    }
    return {address: text for address, text in said.items() if text}


def _facts(answer: dict[str, Any]) -> Facts:
    if answer.get("status") != "OK":
        raise ClusterError(f"The cluster could not be asked for its versions: {answer.get('text', answer)}.")
    return Facts.of(answer["result"])


# --- what differs ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Difference:
    """One package that is not the same here and there."""

    package: str
    here: str
    there: str
    """Empty when it is missing."""
    matters: Literal["missing", "breaks", "may break"]

    def __str__(self) -> str:
        if self.matters == "missing":
            return f"{self.package} is missing there"
        return f"{self.package} is {self.here or 'missing'} here and {self.there or 'missing'} there"


def _minor(version: str) -> tuple[str, ...]:
    return tuple(version.split(".")[:2])


def _major(version: str) -> str:
    return version.partition(".")[0]


def lacking(side: Facts) -> list[str]:
    """What nbcloud needs, and that side has not."""
    return [name for name in NEEDED if normal(name) not in side.packages]


def differences(mine: Facts, other: Facts) -> list[Difference]:
    """Where two sides differ in what matters, the worst first."""
    found = [Difference(name, mine.packages.get(normal(name), ""), "", "missing") for name in lacking(other)]
    if _minor(mine.python) != _minor(other.python):
        # cloudpickle carries functions and classes of notebooks as bytecode.
        found.append(Difference("Python", mine.python, other.python, "breaks"))
    for name in COMPARED:
        a, b = mine.packages.get(normal(name), ""), other.packages.get(normal(name), "")
        if a and b and a != b:
            far = _major(a) != _major(b) or name in {"cloudpickle", "distributed", "dask"}
            if far or name in {"numpy", "pandas"}:
                found.append(Difference(name, a, b, "breaks" if _major(a) != _major(b) else "may break"))
    return found


def check(info: ClusterInfo) -> list[str]:
    """Look whether both sides fit, before anything is sent.

    Returns
    -------
    list of str
        Sentences about what differs and may break.

    Raises
    ------
    MissingExtra
        When a side lacks what nbcloud needs there; names it, and how to have it there.
    """
    mine = here()
    sentences: dict[str, None] = {}
    for where, facts in there(info).items():
        whose = "scheduler" if where == "scheduler" else "workers"
        missing = lacking(facts)
        if missing:
            raise MissingExtra(
                f"The {whose} of {info.name!r} lack{'s' if whose == 'scheduler' else ''} "
                f"{', '.join(missing)}, which nbcloud needs there.",
                _remedy(info, missing),
                packages=missing,
            )
        sentences |= dict.fromkeys(warnings(mine, facts, whose))
    return list(sentences)


def warnings(mine: Facts, other: Facts, whose: str) -> list[str]:
    """Sentences about what differs and may break; ``whose`` names the other side."""
    sentences = []
    for each in differences(mine, other):
        effect = "functions and classes of the notebook may not work there"
        if each.package != "Python":
            effect = "values of it may not travel"
        sentences.append(f"{each} ({whose}): {effect}.")
    return sentences


def _remedy(info: ClusterInfo, missing: list[str]) -> str:
    if info.kind == "kubernetes":
        setting = f'env = {{ EXTRA_PIP_PACKAGES = "{" ".join(missing)}" }}'
        return f"Use an image that has them; with Dask's own, add to the profile: {setting}"
    return f"Type there: pip install {' '.join(missing)}"
