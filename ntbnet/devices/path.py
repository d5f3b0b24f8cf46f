"""One end of the path between two processes: sessions, sequence numbers, liveness, Surprise Down.

A path is a pair of FIFOs, one each way. What both ends agree on for a while is a *session*: a
number the initiating end takes from a counter in the run folder, so it only ever grows. In a
session every device message carries the next sequence number. A repeated one is discarded; a
gap, damaged bytes, a changed incarnation or silence is **Surprise Down**: the session ends and
nothing more of it is applied, so a lost write is never followed by the flag that says it
arrived. A new session starts by itself.

Set-up, initiator on the left (both ends say HELLO until the path is up)::

    HELLO(incarnation)      <->   HELLO(incarnation)  (each with what it knows of the other one)
    OPEN(session, for that incarnation) ->            (with the identity, as HELLO)
                            <-    ACCEPT(session), then device messages may follow
    CLOSE(session) either way ends it; BEAT keeps it alive and shows a lost last message.

The session of the path between ``rc-host`` and ``epc`` is the **link epoch**.

Between two machines the counters behind incarnations and sessions lie on two machines, and those of
one may be lost (its run folder goes with ``down`` and with a reboot) while the other one lives on. So HELLO
says which incarnation of the peer, and which session, this end has seen last; an end that learns of
higher numbers than its own goes on above them: see ``Catchup``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from ntbnet.errors import WireError
from ntbnet.wire import (
    SERVICE_BY_LABEL,
    Decoder,
    Encoder,
    Header,
    Kind,
    Message,
    decode_header,
    decode_message,
    encode_control,
    unpack_body,
)

HELLO_INTERVAL_NS = 25_000_000
"""How often an end that is not up says so; short, because recovery waits for it."""

FIRST_HELLO_NS = 2_000_000
"""How soon the first greeting is repeated: a neighbour that has just started may not be connected yet.

It doubles up to the interval.
"""

OPEN_PATIENCE_NS = 4 * HELLO_INTERVAL_NS
"""How long the initiator repeats OPEN before it takes a new session: the old one may be spent at the peer."""

TAIL_NS = 20_000_000
"""How soon behind a message a BEAT says that it was sent: who waits for an answer to one that was lost sends
nothing that would show the gap, and a heartbeat is long."""

MAX_TOLD = 0xFFFF_FFF0
"""Highest incarnation or session that a HELLO may say it has seen: counters of 32 bits go on above it."""
_FIRST_OF_DEVICES = int(Kind.MEM_WRITE)

Frames = tuple[bytes, "bytes | memoryview"]


class PathState(Enum):
    """Of one end; OPENING is the initiator's wait for ACCEPT."""

    DOWN = "down"
    OPENING = "opening"
    UP = "up"


_UP = PathState.UP
"""Looked up once: in Python 3.11 an attribute of an enum class is found by Python code."""


@dataclass(frozen=True, slots=True)
class Catchup:
    """The counters of an end whose peer is on another machine: they may have to leap, and to remember."""

    session_above: Callable[[int], int]
    """The next session number, above the given one and every earlier one."""
    incarnation_above: Callable[[int], int]
    """A new start number of this process, above the given one and every earlier one."""
    note_session: Callable[[int], None]
    """Keep the session that the other end opened, so that a restarted process knows it."""
    seen_session: int = 0
    """What was noted last."""


class Path:
    """Sans-IO state of one end.

    Args:
        me, peer: service labels.
        initiator: this end chooses session numbers.
        incarnation: start number of this process, above 0.
        allocate_session: next session number, never one given before (initiator only).
        heartbeat_ns: BEAT interval while up.
        liveness_ns: silence that counts as Surprise Down.
        identity: sent in HELLO; an end whose peer's identity differs refuses the path.
        key: seeds every checksum (see ``wire.py``), 0..2^64-1; an end with another one is not heard.
        catchup: for a peer on another machine; None when both ends share their counters.

    Incarnations and sessions are believed however high they are: only who has the key can name
    one, and he could as well raise the counters in the run folder.

    ``receive`` returns the device message to apply, or None; after each call the owner drains
    ``outgoing`` (frames to send) and looks at ``changes`` (ups and downs, oldest first; a reason
    that begins with ``refused`` tells of a foreign peer, and the state is what it was). ``send`` sets
    ``is_sooner`` when the next deadline has come nearer by it, for its owner to clear.
    """

    def __init__(
        self,
        me: str,
        peer: str,
        *,
        initiator: bool,
        incarnation: int,
        allocate_session: Callable[[], int],
        heartbeat_ns: int,
        liveness_ns: int,
        identity: dict[str, Any],
        key: int = 0,
        catchup: Catchup | None = None,
    ) -> None:
        self.me = me
        self.peer = peer
        self.is_initiator = initiator
        self.incarnation = incarnation
        self._src = SERVICE_BY_LABEL[me]
        self._dst = SERVICE_BY_LABEL[peer]
        self._allocate_session = allocate_session
        self._heartbeat_ns = heartbeat_ns
        self._liveness_ns = liveness_ns
        self._identity = identity
        self._key = key
        self._catchup = catchup
        self.state = PathState.DOWN
        self.session = 0
        self.last_session = 0 if catchup is None else catchup.seen_session
        self.peer_incarnation = 0
        self.refused: Counter[str] = Counter()
        self.outgoing: list[Frames] = []
        self.changes: list[tuple[bool, str]] = []
        self._tx_sequence = 0
        self._shown_sequence = 0
        """What the last BEAT said was sent."""
        self.is_sooner = False
        self._rx_sequence = 0
        self._encoder: Encoder | None = None
        self._decoder: Decoder | None = None
        """Of the session, while up."""
        self._last_heard_ns = 0
        self._next_beat_ns = 0
        self._opened_ns = 0
        self._greeting_ns = FIRST_HELLO_NS
        self._mismatch = ""

    @property
    def is_up(self) -> bool:
        """True while a session is established at this end."""
        return self.state is PathState.UP

    @property
    def sent(self) -> int:
        """Messages sent in this session."""
        return self._tx_sequence

    @property
    def received(self) -> int:
        """Messages taken in this session."""
        return self._rx_sequence

    # sending

    def send(self, message: Message, now_ns: int) -> Frames | None:
        """Frames for ``message`` in the current session; None (counted) while there is none."""
        encoder = self._encoder
        if encoder is None:
            self.refused["sent_while_down"] += 1
            return None
        sequence = self._tx_sequence
        self._tx_sequence = sequence + 1
        if sequence == self._shown_sequence:
            self._next_beat_ns = min(self._next_beat_ns, (now_ns // TAIL_NS + 1) * TAIL_NS)
            self.is_sooner = True
        return encoder.encode(message, sequence, now_ns)

    # receiving

    def receive(self, header_frame: bytes, payload: bytes | memoryview, now_ns: int) -> Message | None:
        """Check one message; the device message it carries when it is the next of this session."""
        decoder = self._decoder
        if decoder is not None:
            usual = decoder.decode_next(header_frame, payload, self._rx_sequence)
            if usual is not None:
                self._rx_sequence += 1
                self._last_heard_ns = now_ns
                return usual
        try:
            header = decode_header(header_frame, payload, self._key)
            if header.src != self._dst or header.dst != self._src:
                raise WireError(f"src/dst: {header.src}/{header.dst} on the path from {self.peer}")
            if header.kind < _FIRST_OF_DEVICES:
                self._receive_control(header, payload, now_ns)
                return None
            if self.state is not _UP or header.session != self.session:
                self.refused["stale_session"] += 1
                return None
            if header.incarnation != self.peer_incarnation:
                self.refused["stale_incarnation"] += 1
                return None
            if header.sequence != self._rx_sequence:
                self._out_of_sequence(header.sequence, now_ns)
                return None
            message = decode_message(header, payload)
        except WireError as problem:
            self.refused["damaged"] += 1
            self.surprise_down(f"damaged message: {problem}", now_ns)
            return None
        self._rx_sequence += 1
        self._last_heard_ns = now_ns
        return message

    def _out_of_sequence(self, sequence: int, now_ns: int) -> None:
        if sequence < self._rx_sequence:
            self.refused["repeated"] += 1
            return
        self.refused["gap"] += 1
        self.surprise_down(f"message {self._rx_sequence} lost, {sequence} came", now_ns)

    def _receive_control(self, header: Header, payload: bytes | memoryview, now_ns: int) -> None:
        if header.incarnation < self.peer_incarnation:
            self.refused["stale_incarnation"] += 1
            return
        if header.kind == Kind.HELLO:
            self._on_hello(header, payload, now_ns)
        elif header.kind == Kind.OPEN:
            self._on_open(header, payload, now_ns)
        elif header.kind == Kind.ACCEPT:
            self._on_accept(header, now_ns)
        elif header.kind == Kind.CLOSE:
            same_peer = header.incarnation == self.peer_incarnation
            if same_peer and header.session == self.session and self.state is not PathState.DOWN:
                self._down("closed by peer", now_ns)
        elif header.kind == Kind.BEAT:
            if self.state is PathState.UP and header.session == self.session:
                if header.sequence > self._rx_sequence:
                    self._out_of_sequence(header.sequence, now_ns)
                else:
                    self._last_heard_ns = now_ns
        else:
            raise WireError(f"kind: {header.kind} unknown")

    def _on_hello(self, header: Header, payload: bytes | memoryview, now_ns: int) -> None:
        if not self._same_identity(payload):
            return
        if header.arg > MAX_TOLD or header.sequence > MAX_TOLD:
            raise WireError(f"hello: has seen {header.arg:#x}/{header.sequence:#x}, allowed 0..{MAX_TOLD:#x}")
        if self._catchup is not None and header.arg > self.incarnation:
            # our counters were lost, the peer has not forgotten who we were
            self.incarnation = self._catchup.incarnation_above(header.arg)
        if self.state is PathState.UP:
            reason = "peer restarted" if header.incarnation != self.peer_incarnation else "peer is down"
            self._down(reason, now_ns)
        if not self.is_initiator:
            self.peer_incarnation = header.incarnation
            return
        same_peer = header.incarnation == self.peer_incarnation
        if self.state is PathState.OPENING and same_peer and now_ns - self._opened_ns < OPEN_PATIENCE_NS:
            return
        self.peer_incarnation = header.incarnation
        session = self._allocate_session()
        if self._catchup is not None and session <= header.sequence:
            session = self._catchup.session_above(header.sequence)
        self.session = self.last_session = session
        self.state = PathState.OPENING
        self._opened_ns = now_ns
        self._greeting_ns = FIRST_HELLO_NS
        self._next_beat_ns = self._greet_after(now_ns)
        self._send_open(now_ns)

    def _greet_after(self, now_ns: int) -> int:
        """When HELLO or OPEN is said again, if that gets no answer."""
        after_ns, self._greeting_ns = self._greeting_ns, min(2 * self._greeting_ns, HELLO_INTERVAL_NS)
        return now_ns + after_ns

    def _send_open(self, now_ns: int) -> None:
        self._control(Kind.OPEN, now_ns, arg=self.peer_incarnation, body=self._identity)

    def _same_identity(self, payload: bytes | memoryview) -> bool:
        body = unpack_body(payload)
        for key in sorted(self._identity.keys() | body.keys()):
            mine, theirs = self._identity.get(key), body.get(key)
            if theirs != mine:
                self.refused["identity"] += 1
                mismatch = f"{key[:40]}: {self.peer} has {theirs!r:.80}, {self.me} has {mine!r:.80}"
                if mismatch != self._mismatch:
                    self._mismatch = mismatch
                    self.changes.append((self.is_up, f"refused, {mismatch}"))
                return False
        return True

    def _on_open(self, header: Header, payload: bytes | memoryview, now_ns: int) -> None:
        if not self._same_identity(payload):
            return
        if self.is_initiator or header.arg != self.incarnation or header.session < self.last_session:
            self.refused["stale_session"] += 1
            return
        if header.session > self.last_session:
            if self.state is PathState.UP:
                self._down("peer opened a new session", now_ns)
            self.peer_incarnation = header.incarnation
            self.session = self.last_session = header.session
            if self._catchup is not None:
                self._catchup.note_session(header.session)
            self._control(Kind.ACCEPT, now_ns, arg=self.peer_incarnation)
            self._up(now_ns)
        elif self.state is PathState.UP:
            self._control(Kind.ACCEPT, now_ns, arg=self.peer_incarnation)
        else:
            self.refused["stale_session"] += 1

    def _on_accept(self, header: Header, now_ns: int) -> None:
        opening = self.state is PathState.OPENING
        if opening and header.session == self.session and header.incarnation == self.peer_incarnation:
            self._up(now_ns)
        elif header.session != self.session:
            self.refused["stale_session"] += 1

    # state

    def _up(self, now_ns: int) -> None:
        self.state = PathState.UP
        self._tx_sequence = self._rx_sequence = self._shown_sequence = 0
        src, dst, session, key = self._src, self._dst, self.session, self._key
        self._encoder = Encoder(src, dst, self.incarnation, session, key)
        self._decoder = Decoder(dst, src, self.peer_incarnation, session, key)
        self._last_heard_ns = now_ns
        self._next_beat_ns = self._beat_after(now_ns)
        self._mismatch = ""
        self.changes.append((True, "session agreed"))

    def _down(self, reason: str, now_ns: int) -> None:
        was_up = self.state is PathState.UP
        self.state = PathState.DOWN
        self.session = 0
        self._encoder = self._decoder = None
        self._next_beat_ns = now_ns
        self._greeting_ns = FIRST_HELLO_NS
        if was_up:
            self.changes.append((False, reason))

    def surprise_down(self, reason: str, now_ns: int) -> None:
        """End the session from this end; nothing more of it is applied."""
        if self.state is not PathState.DOWN:
            self._control(Kind.CLOSE, now_ns)
            self._down(reason, now_ns)

    # time

    def next_deadline(self) -> int:
        """Monotonic ns of the next HELLO or BEAT; silence is judged then as well."""
        if self.state is PathState.UP:
            return min(self._next_beat_ns, self._last_heard_ns + self._liveness_ns)
        return self._next_beat_ns

    def _beat_after(self, now_ns: int) -> int:
        """The next BEAT, on a grid common to all paths, so that an idle machine wakes for all at once."""
        return (now_ns // self._heartbeat_ns + 1) * self._heartbeat_ns

    def on_deadline(self, now_ns: int) -> None:
        """Say HELLO or BEAT when due; declare a silent peer lost."""
        if self.state is PathState.UP and now_ns - self._last_heard_ns >= self._liveness_ns:
            silent_ms = (now_ns - self._last_heard_ns) // 1_000_000
            self.surprise_down(f"peer silent for {silent_ms} ms", now_ns)
        if now_ns < self._next_beat_ns:
            return
        if self.state is PathState.UP:
            self._shown_sequence = self._tx_sequence
            self._control(Kind.BEAT, now_ns, sequence=self._shown_sequence)
            self._next_beat_ns = self._beat_after(now_ns)
            return
        if self.state is PathState.OPENING and now_ns - self._opened_ns < OPEN_PATIENCE_NS:
            self._send_open(now_ns)
        else:
            if self.state is PathState.OPENING:
                self._down("no answer to OPEN", now_ns)
            self._control(
                Kind.HELLO,
                now_ns,
                arg=self.peer_incarnation,
                sequence=self.last_session,
                body=self._identity,
            )
        self._next_beat_ns = self._greet_after(now_ns)

    def _control(
        self, kind: Kind, now_ns: int, *, arg: int = 0, sequence: int = 0, body: dict[str, Any] | None = None
    ) -> None:
        self.outgoing.append(
            encode_control(
                kind,
                self._src,
                self._dst,
                self.incarnation,
                self.session,
                arg=arg,
                sequence=sequence,
                timestamp_ns=now_ns,
                body=body,
                key=self._key,
            )
        )

    def snapshot(self) -> dict[str, Any]:
        """State for ``status``: who, up or not, session, counted refusals."""
        return {
            "peer": self.peer,
            "state": self.state.value,
            "session": self.session,
            "peer_incarnation": self.peer_incarnation,
            "sent": self._tx_sequence,
            "received": self._rx_sequence,
            "refused": dict(self.refused),
        }
