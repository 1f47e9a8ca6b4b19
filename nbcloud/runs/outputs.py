"""Jupyter messages become the outputs of a notebook cell, and outputs become text."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from nbcloud.wording import raised_text

Message = tuple[str, Mapping[str, Any], Mapping[str, Any]]
"""Type, content and metadata of a message from a kernel's iopub channel."""

_JSON_MIME = re.compile(r"application/(.*\+)?json")


class OutputComposer:
    """Takes the iopub messages of one run in order; holds the outputs that they leave, as JupyterLab would.

    Adding a message is constant in time, whatever came before: text is joined when the outputs are asked for.
    What an Output widget captures stands among the others; a clear inside of the widget spares those.
    """

    def __init__(self) -> None:
        self._outputs: list[tuple[str, dict[str, Any]]] = []
        """Each with the Output widget that captured it, by its comm; none is ``""``."""
        self._captors = [""]
        self._displays: dict[str, list[dict[str, Any]]] = {}
        self._clear_at_next: set[str] = set()

    def add(self, msg_type: str, content: Mapping[str, Any]) -> None:
        """Take the next message; those that leave no output (status, …) are ignored."""
        match msg_type:
            case "stream":
                self._add_stream(str(content.get("name", "stdout")), str(content.get("text", "")))
            case "display_data" | "execute_result":
                self._add_display(msg_type, content)
            case "update_display_data":
                for output in self._displays.get(_display_id(content), ()):
                    output.update(_bundle(content))
            case "error":
                self._append(
                    {
                        "output_type": "error",
                        "ename": str(content.get("ename", "")),
                        "evalue": str(content.get("evalue", "")),
                        "traceback": [str(line) for line in content.get("traceback") or ()],
                    }
                )
            case "clear_output":
                self._clear_at_next.add(self._captors[-1])
                if not content.get("wait"):
                    self._clear_if_due()
            case "comm_msg":
                self._capture(content)

    def outputs(self) -> list[dict[str, Any]]:
        """The outputs now, in the form of nbformat 4.5; later messages don't change what was returned."""
        return [
            output | {"text": "".join(output["text"])} if output["output_type"] == "stream" else dict(output)
            for _, output in self._outputs
        ]

    def _add_stream(self, name: str, text: str) -> None:
        self._clear_if_due()
        if not text:
            return
        captor, last = self._outputs[-1] if self._outputs else ("", {})
        if captor == self._captors[-1] and last.get("output_type") == "stream" and last["name"] == name:
            last["text"].append(text)
        else:
            self._append({"output_type": "stream", "name": name, "text": [text]})

    def _add_display(self, msg_type: str, content: Mapping[str, Any]) -> None:
        output = {"output_type": msg_type, **_bundle(content)}
        if msg_type == "execute_result":
            output["execution_count"] = _count(content.get("execution_count"))
        self._append(output)
        if display_id := _display_id(content):
            self._displays.setdefault(display_id, []).append(output)

    def _append(self, output: dict[str, Any]) -> None:
        self._clear_if_due()
        self._outputs.append((self._captors[-1], output))

    def _clear_if_due(self) -> None:
        captor = self._captors[-1]
        if captor in self._clear_at_next:
            self._clear_at_next.remove(captor)
            self._outputs = [(other, output) for other, output in self._outputs if other != captor]
            left = {id(output) for _, output in self._outputs}
            self._displays = {
                key: [output for output in outputs if id(output) in left]
                for key, outputs in self._displays.items()
            }

    def _capture(self, content: Mapping[str, Any]) -> None:
        """An Output widget says whose outputs it captures from now on; nobody's, when it has enough."""
        state = _mapping(_mapping(content.get("data")).get("state"))
        if "msg_id" in state:
            comm = str(content.get("comm_id"))
            self._captors = [captor for captor in self._captors if captor != comm]
            if state["msg_id"]:
                self._captors.append(comm)


def compose(messages: Iterable[Message]) -> list[dict[str, Any]]:
    """The outputs that these messages leave, valid under nbformat 4.5.

    Parameters
    ----------
    messages : iterable of (msg_type, content, metadata)
        As the kernel sent them on iopub.
    """
    composer = OutputComposer()
    for msg_type, content, _ in messages:
        composer.add(msg_type, content)
    return composer.outputs()


def _display_id(content: Mapping[str, Any]) -> str:
    return str(_mapping(content.get("transient")).get("display_id") or "")


def _mapping(value: Any) -> Mapping[str, Any]:
    """What a message should have there; a comm may carry any JSON, and code may send what it likes."""
    return value if isinstance(value, Mapping) else {}


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and value >= 0 else None


def _bundle(content: Mapping[str, Any]) -> dict[str, Any]:
    data, metadata = _mapping(content.get("data")), _mapping(content.get("metadata"))
    return {"data": {mime: _value(mime, value) for mime, value in data.items()}, "metadata": dict(metadata)}


def _value(mime: str, value: Any) -> Any:
    # A display formatter may return anything; in a notebook, only JSON types may be other than text.
    if isinstance(value, str) or _JSON_MIME.fullmatch(mime):
        return value
    if isinstance(value, list) and all(isinstance(line, str) for line in value):
        return value
    return json.dumps(value)


# CSI sequences (colours, cursor), OSC sequences (titles, links), and the two-byte escapes.
_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\^_])")


def output_text(output: Mapping[str, Any], ansi: bool = False) -> str:
    """What a terminal shows for one output: a stream's text, the text/plain of a display, a traceback.

    Parameters
    ----------
    output : mapping
        One output of nbformat.
    ansi : bool, optional
        Keep colours and other escape sequences.
    """
    match output["output_type"]:
        case "stream":
            text = _joined(output["text"])
        case "error":
            lines = output["traceback"] or [raised_text(output["ename"], output["evalue"])]
            text = "\n".join(lines) + "\n"
        case _:
            data = output["data"]
            text = _joined(data["text/plain"]) if "text/plain" in data else f"[{', '.join(data)}]"
            text += "\n"
    return text if ansi or "\x1b" not in text else _ANSI.sub("", text)


def _joined(text: str | list[str]) -> str:
    # nbformat allows both on disk; joining a string would go through it letter by letter.
    return text if isinstance(text, str) else "".join(text)


class TextFlow:
    """Puts the texts of successive outputs in one flow, each display and traceback on a line of its own."""

    def __init__(self, ansi: bool = False) -> None:
        self._ansi = ansi
        self._inside_line = False

    def add(self, output: Mapping[str, Any]) -> str:
        """The text to print next for ``output``."""
        text = output_text(output, self._ansi)
        if self._inside_line and output["output_type"] != "stream":
            text = "\n" + text
        if text:
            self._inside_line = not text.endswith(("\n", "\r"))
        return text


def outputs_text(outputs: Iterable[Mapping[str, Any]], ansi: bool = False) -> str:
    """All the outputs as a terminal would show them."""
    flow = TextFlow(ansi)
    return "".join(flow.add(output) for output in outputs)
