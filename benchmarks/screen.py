"""What a user sees of a cell: its messages, folded the way a front end folds them."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field

_OUTPUT = {
    "stream",
    "display_data",
    "update_display_data",
    "execute_result",
    "error",
    "comm_open",
    "comm_msg",
    "clear_output",
}


@dataclass
class Message:
    """One iopub message, its content still as bytes."""

    at: float
    kind: str
    content: bytes

    @property
    def is_output(self) -> bool:
        return self.kind in _OUTPUT


@dataclass
class Screen:
    """All text and pictures that stand below the cell, each at its place."""

    slots: dict[str, str] = field(default_factory=dict)
    images: dict[str, int] = field(default_factory=dict)

    def add(self, message: Message) -> None:
        content = json.loads(message.content)
        if message.kind == "stream":
            self._append("", content["text"])
        elif message.kind == "error":
            self._append("", "\n".join(content["traceback"]) or f"{content['ename']}: {content['evalue']}")
        elif message.kind in {"display_data", "update_display_data", "execute_result"}:
            # A display id is one place on the screen: an update replaces what stood there.
            slot = content.get("transient", {}).get("display_id") or f"display-{len(self.slots)}"
            self._show(slot, content["data"])
        elif message.kind in {"comm_open", "comm_msg"}:
            outputs = content["data"].get("state", {}).get("outputs")
            if outputs is not None:  # an ipywidgets.Output sends all that it holds, each time
                self._widget(content["comm_id"], outputs)

    def _append(self, slot: str, text: str) -> None:
        self.slots[slot] = self.slots.get(slot, "") + text

    def _show(self, slot: str, data: dict[str, str]) -> None:
        if "image/png" in data:
            self.images[slot] = len(data["image/png"]) * 3 // 4
        self.slots[slot] = data.get("text/plain", "")

    def _widget(self, slot: str, outputs: list[dict]) -> None:
        self.slots[slot] = "".join(output.get("text", "") for output in outputs)
        for output in outputs:
            if "data" in output:
                self._show(f"{slot}-data", output["data"])

    @property
    def text(self) -> str:
        return "".join(self.slots.values())


def plain(text: str) -> str:
    """``text`` without terminal colours."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)
