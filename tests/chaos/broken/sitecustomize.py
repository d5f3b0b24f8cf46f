"""Breaks ntbnet in every process of a test run: the checker has to notice. No part of ntbnet.

Python imports a module of this name when it starts, if a folder of PYTHONPATH has one. BREAK_NTBNET says
what is switched off.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count
from typing import Any

FORGOTTEN = 100
"""Every so-manieth frame keeps its flags."""


def epoch() -> None:
    """The host's driver takes writes of older link epochs for ones of now."""
    from ntbnet.devices.peer_rc import RcPeer
    from ntbnet.wire import MemWrite, Message

    handle = RcPeer.handle

    def believing(self: RcPeer, src: str, message: Message, now_ns: int) -> Sequence[Any]:
        if isinstance(message, MemWrite):
            message = replace(message, epoch=self._tasks.epoch)
        return handle(self, src, message, now_ns)

    RcPeer.handle = believing  # type: ignore[method-assign]  # the purpose of this file


def order() -> None:
    """A path takes what comes, though something before it is missing."""
    from ntbnet.devices import path
    from ntbnet.wire import decode_header

    receive: Callable[..., Any] = path.Path.receive

    def careless(self: path.Path, header_frame: Any, payload: Any, now_ns: int) -> Any:
        header = decode_header(header_frame, payload, self._key)
        if header.session == self.session and header.sequence > self._rx_sequence:
            self._rx_sequence = header.sequence
        return receive(self, header_frame, payload, now_ns)

    path.Path.receive = careless  # type: ignore[method-assign]


def ver() -> None:
    """A receiver forgets to clear flags at times, so frames of the last lap seem new; no ``ver`` is compared.

    Forgetting alone is found by ``ver``, which is what it is for.
    """
    from ntbnet.devices import rx_ring
    from ntbnet.devices.memory import Window

    class Anything:
        """Equal to each number, masked or not."""

        def __rand__(self, other: int) -> Anything:
            return self

        def __ne__(self, other: object) -> bool:
            return False

        __hash__ = None  # type: ignore[assignment]

    store, cleared = Window.store_u32, count(1)

    def forgetting(self: Window, what: str, offset: int, value: int) -> None:
        if what != "ring.flags_cleared" or next(cleared) % FORGOTTEN:
            store(self, what, offset, value)

    Window.store_u32 = forgetting  # type: ignore[method-assign]
    vars(rx_ring)["U32_MAX"] = Anything()


BREAKS = {"epoch": epoch, "order": order, "ver": ver}
if "BREAK_NTBNET" in os.environ:
    BREAKS[os.environ["BREAK_NTBNET"]]()
