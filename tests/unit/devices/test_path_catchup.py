"""Two machines count for themselves; the one whose counters were lost goes on above what the other knows."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import pytest

from ntbnet.devices.path import MAX_TOLD, Catchup, Path
from ntbnet.wire import Irq, IrqSource, Kind, encode_control

MS = 1_000_000


@dataclass
class Counters:
    """What a machine keeps in its run folder."""

    incarnation: int = 0
    session: int = 0

    def next_incarnation(self, above: int = 0) -> int:
        self.incarnation = max(self.incarnation, above) + 1
        return self.incarnation

    def next_session(self, above: int = 0) -> int:
        self.session = max(self.session, above) + 1
        return self.session

    def note_session(self, number: int) -> None:
        self.session = max(self.session, number)


@dataclass
class Machine:
    me: str
    peer: str
    initiator: bool
    counters: Counters = field(default_factory=Counters)

    def start(self) -> None:
        counters = self.counters
        self.path = Path(
            self.me,
            self.peer,
            initiator=self.initiator,
            incarnation=counters.next_incarnation(),
            allocate_session=counters.next_session,
            heartbeat_ns=100 * MS,
            liveness_ns=300 * MS,
            identity={"bridge": "x"},
            catchup=Catchup(
                counters.next_session, counters.next_incarnation, counters.note_session, counters.session
            ),
        )

    def reboot(self) -> None:
        """The run folder is gone, and with it the counters."""
        self.counters = Counters()
        self.start()


class Cable:
    """Two machines and what is under way; cut, everything is lost."""

    def __init__(self) -> None:
        self.now_ns = 10**12
        self.rc, self.ep = Machine("rc-host", "epc", True), Machine("epc", "rc-host", False)
        self.is_cut = False
        self._flying: deque[tuple[Machine, tuple[bytes, bytes]]] = deque()
        for machine in (self.rc, self.ep):
            machine.start()

    def run(self, duration_ms: int) -> None:
        for _ in range(duration_ms // 5):
            self.now_ns += 5 * MS
            for machine, other in ((self.rc, self.ep), (self.ep, self.rc)):
                if machine.path.next_deadline() <= self.now_ns:
                    machine.path.on_deadline(self.now_ns)
                self._collect(machine, other)
            while self._flying:
                machine, frame = self._flying.popleft()
                machine.path.receive(*frame, self.now_ns)
                self._collect(machine, self.rc if machine is self.ep else self.ep)

    def _collect(self, machine: Machine, other: Machine) -> None:
        outgoing, machine.path.outgoing = machine.path.outgoing, []
        if not self.is_cut:
            self._flying.extend((other, (header, bytes(payload))) for header, payload in outgoing)

    def is_up(self) -> bool:
        return self.rc.path.is_up and self.ep.path.is_up and self.rc.path.session == self.ep.path.session


@pytest.fixture
def cable() -> Cable:
    cable = Cable()
    for _ in range(4):  # several starts and sessions, so that there is something to catch up with
        cable.rc.start()
        cable.ep.start()
        cable.run(600)
    assert cable.is_up()
    return cable


@pytest.mark.parametrize("who", ["rc", "ep", "both"])
def test_machine_that_lost_its_counters_comes_back(cable: Cable, who: str) -> None:
    before = cable.rc.path.session

    for name in ("rc", "ep"):
        if who in {name, "both"}:
            getattr(cable, name).reboot()
    cable.run(1000)

    assert cable.is_up()
    assert who == "both" or cable.rc.path.session > before


def test_session_stays_above_every_earlier_one_when_the_host_and_the_controller_lose_theirs(
    cable: Cable,
) -> None:
    before = cable.ep.path.session

    cable.ep.start()  # the process alone: its machine has noted the session
    cable.rc.reboot()
    cable.run(1000)

    assert cable.is_up()
    assert cable.rc.path.session > before


def test_message_of_an_incarnation_before_the_reboot_is_not_applied(cable: Cable) -> None:
    old = cable.rc.path.send(Irq(IrqSource.MSI_VECTOR, 1), cable.now_ns)
    assert old is not None

    cable.rc.reboot()
    cable.run(1000)

    assert cable.is_up()
    assert cable.ep.path.receive(old[0], bytes(old[1]), cable.now_ns) is None
    assert cable.ep.path.refused["stale_session"] == 1
    assert cable.is_up()


def test_cut_and_healed_cable_needs_nothing_but_time(cable: Cable) -> None:
    before = cable.rc.path.session

    cable.is_cut = True
    cable.run(1000)
    assert not cable.rc.path.is_up
    assert not cable.ep.path.is_up
    cable.is_cut = False
    cable.run(500)

    assert cable.is_up()
    assert cable.rc.path.session > before


@pytest.mark.parametrize(
    "told", [{"arg": MAX_TOLD + 1}, {"sequence": MAX_TOLD + 1}, {"sequence": (1 << 64) - 1}]
)
def test_peer_that_says_it_has_seen_the_end_of_the_counters_is_refused(
    cable: Cable, told: dict[str, int]
) -> None:
    path = cable.rc.path
    incarnation, session = path.incarnation, cable.rc.counters.session

    hello = encode_control(Kind.HELLO, 2, 1, path.peer_incarnation, 0, body={"bridge": "x"}, **told)
    path.receive(*hello, cable.now_ns)

    assert path.refused["damaged"] == 1
    assert (path.incarnation, cable.rc.counters.session) == (incarnation, session)


def test_higher_start_number_is_kept_for_the_next_process(cable: Cable) -> None:
    known = cable.ep.path.peer_incarnation

    cable.rc.reboot()
    cable.run(1000)

    assert cable.rc.counters.incarnation == cable.rc.path.incarnation > known
