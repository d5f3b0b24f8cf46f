"""What the tests of device models share: a small configuration, memory, and a look at effects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from ntbnet.config import Config, load_text
from ntbnet.devices.effects import Effect, Log, Send
from ntbnet.devices.memory import Window
from ntbnet.wire import Message
from tests.fabric import in_fabric

M = TypeVar("M")

EP_DRAM, RC_DRAM = 0x4800_0000, 0x8000_0000
DRAM_BYTES = 8 << 20


def config(text: str = "", profile: str = "r-car-s4", fabric: str = "message") -> Config:
    """The default configuration with little DRAM; ``text`` is TOML that comes before it."""
    nodes = f"[node.rc]\ndram_bytes = {DRAM_BYTES}\n[node.ep]\ndram_bytes = {DRAM_BYTES}\n"
    return in_fabric(load_text(f"{text}\n{nodes}", "test", profile=profile), fabric)


def dram(base: int, size: int = DRAM_BYTES) -> Window:
    return Window(memoryview(bytearray(size)), base, "dram")


def sent(effects: Sequence[Effect], dst: str | None = None) -> list[Message]:
    """Messages to ``dst``, in order; to anybody when None."""
    return [e.message for e in effects if isinstance(e, Send) and dst in {None, e.dst}]


def only(effects: Sequence[Effect], dst: str, kind: type[M]) -> M:
    """The one message sent to ``dst``."""
    messages = sent(effects, dst)
    assert len(messages) == 1, messages
    assert isinstance(messages[0], kind)
    return messages[0]


def logged(effects: Sequence[Effect], event: str) -> list[Mapping[str, Any]]:
    """Keys of every log event of that name."""
    return [e.keys for e in effects if isinstance(e, Log) and e.event == event]


def u32(*values: int) -> bytes:
    return b"".join(value.to_bytes(4, "little") for value in values)
