"""analyze() against what really happens: random programs run in a namespace that notes what they read.

The programs call functions by way of other functions, classes, decorators and lambdas, swallow errors, and
take random branches. A read that the analysis misses would be a value that does not travel to the cluster.
"""

from __future__ import annotations

import ast
import asyncio
import builtins
import random
import re
from types import CodeType
from typing import Any

import pytest

from nbcloud.cells.analysis import analyze

DATA = "abcde"
CALLABLE = "fgh"


class Value:
    """Whatever a program asks of it: callable, iterable, a context manager, a decorator."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance

    def __call__(self, *arguments: Any) -> Any:
        if self._chance.random() < 0.1:
            raise LookupError
        for argument in arguments:
            # A decorator or a registry may call what it is given, at once.
            if getattr(argument, "__name__", "") in {*CALLABLE, "<lambda>"} and self._chance.random() < 0.5:
                argument()
        return arguments[0] if arguments and callable(arguments[0]) else Value(self._chance)

    def __iter__(self) -> Any:
        return iter([Value(self._chance) for _ in range(self._chance.randrange(3))])

    def __bool__(self) -> bool:
        return self._chance.random() < 0.5

    def __add__(self, other: object) -> Value:
        return Value(self._chance)

    def __enter__(self) -> Value:
        return Value(self._chance)

    def __exit__(self, *error: object) -> bool:
        return False

    def __await__(self) -> Any:
        return Value(self._chance)
        yield


class Namespace(dict[str, Any]):
    """A notebook's namespace that notes which of its first values are looked up or deleted."""

    def __init__(self, values: dict[str, Any]) -> None:
        super().__init__(values)
        self.first = dict(values)
        self.observed: set[str] = set()
        self.bound: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        value = super().__getitem__(name)
        if name not in self.bound and self.first.get(name) is value:
            self.observed.add(name)
        return value

    def __setitem__(self, name: str, value: Any) -> None:
        self.bound.add(name)
        super().__setitem__(name, value)

    def __delitem__(self, name: str) -> None:
        if self.get(name) is self.first.get(name) and name not in self.bound:
            self.observed.add(name)
        self.bound.add(name)
        super().__delitem__(name)

    def changed(self) -> set[str]:
        return {name for name in self.first if self.get(name) is not self.first[name]}


class Program:
    """Writes a random cell."""

    def __init__(self, seed: int) -> None:
        self.pick = random.Random(seed)

    def text(self) -> str:
        return "\n".join(self.block(0, self.pick.randrange(3, 9), ""))

    def name(self) -> str:
        return self.pick.choice(DATA + CALLABLE)

    def expression(self, depth: int = 0) -> str:
        if depth > 2:
            return self.name()
        inner = lambda: self.expression(depth + 1)  # noqa: E731
        return self.pick.choice(
            [
                self.name,
                self.name,
                lambda: f"{self.pick.choice(CALLABLE)}()",
                lambda: f"v({inner()}, {inner()})",
                lambda: f"({inner()} if {inner()} else {inner()})",
                lambda: f"({inner()} and {inner()})",
                lambda: f"({self.pick.choice(DATA)} := {inner()})",
                lambda: f"v(lambda: {inner()})",
                lambda: (
                    f"[v({inner()}) for {self.pick.choice(DATA)} in w({self.name()}) if {inner()}]".replace(
                        ":=", "+"
                    )
                ),
                lambda: f"v(f'{{{self.name()}}}')",
                lambda: f"v(v({self.name()}) for i in w({self.name()}))",
            ]
        )()

    def block(self, depth: int, length: int, indent: str) -> list[str]:
        return [line for _ in range(length) for line in self.statement(depth, indent)] or [indent + "pass"]

    def statement(self, depth: int, indent: str) -> list[str]:
        data, callee = self.pick.choice(DATA), self.pick.choice(CALLABLE)
        body = lambda n=2: self.block(depth + 1, self.pick.randrange(1, n + 1), indent + "    ")  # noqa: E731
        simple = [
            lambda: [f"{data} = {self.expression()}"],
            lambda: [f"{data} += {self.expression()}"],
            lambda: [f"v({self.expression()})"],
            lambda: [f"{callee}()"],
            lambda: [f"del {data}"],
            lambda: [f"{data}, {self.pick.choice(DATA)} = v(), v()"],
            lambda: [f"assert v, {self.name()}"],
            lambda: [f"{data}: {self.name()} = v()"],
        ]
        compound = [
            lambda: [f"if {self.expression()}:", *body(), f"{indent}else:", *body()],
            lambda: [f"if {self.expression()}:", *body()],
            lambda: [
                f"for {data} in w({self.expression()}):",
                *body(),
                f"{indent}    if v(): break",
                *body(),
            ],
            lambda: [f"while {self.expression()} and v():", *body()],
            lambda: ["try:", *body(3), f"{indent}except LookupError:", *body()],
            lambda: [
                "try:",
                *body(3),
                f"{indent}except Exception as {data}:",
                *body(),
                f"{indent}else:",
                *body(),
            ],
            lambda: ["try:", *body(), f"{indent}except LookupError: raise", f"{indent}finally:", *body()],
            lambda: [f"with v({self.name()}) as {data}:", *body(3)],
            lambda: [f"with suppress(Exception), v({self.name()}):", *body(3)],
            lambda: [f"def {callee}(x={self.expression()}):", *self.function_body(indent)],
            lambda: [f"def {callee}():", *self.function_body(indent)],
            lambda: [f"@v\n{indent}def {callee}():", *without(callee, self.function_body(indent))],
            lambda: [f"class {callee}:", *without(callee, self.class_body(depth, indent))],
            lambda: [
                f"match {self.expression()}:",
                f"{indent}    case [{data}, *_]: v({self.name()})",
                f"{indent}    case {self.pick.choice(['_', data])}: {data} = v()",
            ],
        ]
        chosen = self.pick.choice(simple if depth > 2 or self.pick.random() < 0.5 else compound)()
        return [indent + chosen[0], *chosen[1:]]

    def class_body(self, depth: int, indent: str) -> list[str]:
        indent += "    "
        return [
            *self.block(depth + 1, 2, indent),
            f"{indent}def __init__(self):",
            *self.function_body(indent),
        ]

    def function_body(self, indent: str) -> list[str]:
        indent += "    "
        lines = [f"{indent}v({self.expression()})"]
        if self.pick.random() < 0.2:
            lines = [f"{indent}global {self.pick.choice(DATA)}; v()", *lines]
            lines.append(lines[0].replace("; v()", "").replace("global ", "") + " = v()")
        if self.pick.random() < 0.3:
            lines.append(f"{indent}{self.pick.choice(CALLABLE)}()")
        return lines


def without(name: str, body: list[str]) -> list[str]:
    """Take out a decorated function's or a class's own name.

    A decorator that calls the function at once, before it has its name, would make it read the old one.
    The analysis ignores this on purpose: else each ``@cache`` over a recursive function would be a read.
    """
    return [re.sub(rf"\b{name}\b", "v", line) for line in body]


def compiled(text: str) -> CodeType | None:
    try:
        return compile(text, "<cell>", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    except SyntaxError:
        return None


def run(code: CodeType, seed: int, without: str | None = None) -> tuple[Namespace, BaseException | None]:
    import contextlib

    chance = random.Random(seed)
    steps = iter(range(300))

    def v(*arguments: Any) -> Any:
        if next(steps, None) is None:
            raise TimeoutError
        return Value(chance)(*arguments)

    values = {name: Value(chance) for name in DATA + CALLABLE if name != without}
    space = Namespace(values)
    known = {**vars(builtins), "v": v, "w": lambda value: Value(chance), "suppress": contextlib.suppress}
    dict.__setitem__(space, "__builtins__", known)
    try:
        outcome = eval(code, space)
        if asyncio.iscoroutine(outcome):
            outcome.send(None)
    except Exception as error:
        return space, error
    return space, None


def programs(seeds: range) -> list[tuple[int, str, CodeType]]:
    texts = ((seed, Program(seed).text()) for seed in seeds)
    return [(seed, text, code) for seed, text in texts if (code := compiled(text)) is not None]


@pytest.mark.parametrize("first", range(0, 400, 100))
def test_all_that_a_program_reads_and_binds_is_found(first: int) -> None:
    for seed, text, code in programs(range(first, first + 100)):
        names = analyze(text)
        for way in range(4):
            space, _ = run(code, seed + way)
            assert space.observed <= names.reads, text
            assert space.changed() <= names.binds | names.deletes, text


@pytest.mark.parametrize("first", range(0, 400, 100))
def test_a_program_never_ends_well_without_a_required_name(first: int) -> None:
    for seed, text, code in programs(range(first, first + 100)):
        for required in analyze(text).required:
            if required.name in DATA + CALLABLE:
                for way in range(2):
                    _, error = run(code, seed + way, without=required.name)
                    assert error is not None, (required, text)
