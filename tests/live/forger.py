"""Messages that no service of a bridge sent, put into the socket of one of its paths."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import zmq

from ntbnet.wire import SERVICE_BY_LABEL, MemWrite, Message
from tests.frames import encode
from tests.live.bridge import LiveBridge, until


class Forger:
    """Sends what it likes into the socket of a path, beside its rightful sender."""

    def __init__(self, bridge: LiveBridge, src: str, dst: str) -> None:
        self._bridge = bridge
        self.src = src
        self.dst = dst
        self.key = bridge.run.secret()
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.PUSH)
        self._socket.connect(f"ipc://{bridge.run.socket_path(f'{src}.{dst}')}")

    def send(self, *frames: bytes | memoryview) -> None:
        """Send what may be one message, or several, as one frame."""
        self._socket.send(b"".join(frames))

    def path(self) -> dict[str, Any]:
        """The path as the victim sees it."""
        paths = self._bridge.service(self.dst)["paths"]
        found: dict[str, Any] = next((path for path in paths if path["peer"] == self.src), {"refused": {}})
        return found

    def refused(self, cause: str) -> int:
        """Messages that the victim refused for that cause."""
        count: int = self.path()["refused"].get(cause, 0)
        return count

    def expect_refusal(self, cause: str, send: Callable[[], None]) -> None:
        """``send`` makes the victim count a refusal."""
        before = self.refused(cause)
        send()
        until(lambda: self.refused(cause) > before, 5, f"{self.dst} counts {cause}, has {self.path()}")

    def write(self, sequence: int, *, incarnation: int = 0, session: int = 0) -> tuple[bytes, bytes]:
        """A well-made posted write to an address nobody has, under numbers of our choice or the path's."""
        path = self.path()
        header, payload = encode(
            MemWrite(0x7777_0000_0000, b"forged!!", 0),
            SERVICE_BY_LABEL[self.src],
            SERVICE_BY_LABEL[self.dst],
            incarnation or path["peer_incarnation"],
            session or path["session"],
            sequence,
            0,
            self.key,
        )
        return header, bytes(payload)

    def inject(self, message: Message) -> None:
        """Send what the victim takes for the next message of its session, and await that it did.

        The rightful sender's next one is dropped as repeated then, so it must have nothing to say.
        """
        path = self.path()
        src, dst = SERVICE_BY_LABEL[self.src], SERVICE_BY_LABEL[self.dst]
        numbers = path["peer_incarnation"], path["session"], path["received"]
        header, payload = encode(message, src, dst, *numbers, 0, self.key)
        self.send(header, payload)
        until(lambda: self.path()["received"] > path["received"], 5, f"{self.dst} takes {message}")

    def close(self) -> None:
        """Go away."""
        self._context.destroy(linger=0)
