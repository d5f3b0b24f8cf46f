"""What the endpoint controller grants: byte for byte what the messages would reach, or less."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ntbnet.address import BusAddr, CpuAddr, Span
from ntbnet.devices.direct import MEMORY, Grant, from_body, to_body
from ntbnet.devices.effects import Effect
from ntbnet.devices.endpoint import FUNCTION_REGION_BYTES, EndpointController
from ntbnet.errors import KernelError
from ntbnet.profile import SHIPPED
from ntbnet.wire import Call, CfgRead, CfgWrite, Completion, Irq, IrqSource, MemWrite, Message, Notice
from tests.unit.devices.kit import EP_DRAM, RC_DRAM, config, dram, sent

EPOCH, PAGE, MIB = 5, 0x1000, 1 << 20
PLACES = (0x4000_0000, 0x6000_0000)
"""Two places for the BARs; 64 MiB for each BAR."""
IDENT, HOST_IDENT = 12, 11
MSI_ADDRESS = 0xF105_0040
MSI = [MSI_ADDRESS, 0x40, 16]


class Endpoint:
    """A controller in fabric ``local``, its paths up and its BARs placed; keeps what it grants."""

    def __init__(self, profile: str = "r-car-s4") -> None:
        self.config = config(profile=profile, fabric="local")
        self.dram = dram(self.config.profile.endpoint.dram_base)
        self.client_memory = self.dram.span.base + FUNCTION_REGION_BYTES
        self.model = EndpointController(self.config, self.dram, IDENT)
        self.model.start(0)
        self.granted: dict[str, list[dict[str, Any]]] = {"peer-ep": [], "rc-host": []}
        self.paths_up(EPOCH)
        self.place(PLACES[0])

    # what others do

    def seen(self, effects: Sequence[Effect]) -> list[Message]:
        for dst, said in self.granted.items():
            for message in sent(effects, dst):
                if isinstance(message, Notice) and message.name == "grants":
                    said.append(dict(message.args))
        return [one for one in sent(effects) if not (isinstance(one, Notice) and one.name == "grants")]

    def paths_up(self, epoch: int) -> None:
        for peer, session in (("peer-ep", 2), ("edma", 3), ("rc-host", epoch)):
            self.seen(self.model.on_path(peer, True, session, "session agreed", 0))
        self.epoch = epoch

    def host(self, message: Message) -> list[Message]:
        return self.seen(self.model.handle("rc-host", message, 0))

    def cfg_write(self, offset: int, value: int, size: int = 4) -> None:
        self.host(CfgWrite(offset, value.to_bytes(size, "little"), 1, self.epoch))

    def cfg_read(self, offset: int, size: int) -> int:
        (answer,) = self.host(CfgRead(offset, size, 1, self.epoch))
        assert isinstance(answer, Completion)
        return int.from_bytes(answer.data, "little")

    def place(self, base: int, *, decode: bool = True, master: bool = True) -> None:
        """Give every BAR an address."""
        for bar in range(6):
            if self.model.epc.bars.config(bar) is not None:
                self.cfg_write(0x10 + 4 * bar, base + bar * 64 * MIB)
        self.cfg_write(0x04, decode * 2 + master * 4, 2)

    def enable_msi(self, vectors_log2: int = 4) -> None:
        self.cfg_write(0x54, MSI_ADDRESS)
        self.cfg_write(0x58, 0)
        self.cfg_write(0x5C, MSI[1], 2)
        self.cfg_write(0x52, (1 if vectors_log2 else 0) | vectors_log2 << 4, 2)

    def call(self, op: str, **args: Any) -> None:
        self.seen(self.model.handle("peer-ep", Call(op, args, 9, self.epoch), 0))

    def set_window(self, offset: int = MIB) -> None:
        """Point the first data window at memory, ``offset`` bytes from where the client's begins."""
        window = self.config.data_windows[0]
        size = self.model.vntb.windows.plans[window.index].size
        self.call("mw_set_trans", widx=window.index, addr=self.client_memory + offset, size=min(size, MIB))

    def host_grants(self, ranges: list[Grant], msi: Any = MSI) -> None:
        args = {"memory": HOST_IDENT, "ranges": to_body(ranges), "msi": msi}
        self.host(Notice("grants", args, self.epoch))

    def map_outbound(self, local: int, bus: int, size: int) -> None:
        self.model.epc.map_addr(local, bus, size)
        self.host(CfgRead(0, 4, 1, self.epoch))

    # what it grants

    def of(self, who: str) -> tuple[Grant, ...]:
        """Last told to the client or the host."""
        said = self.granted["peer-ep" if who == "client" else "rc-host"]
        return from_body(said[-1]["ranges"], 1 << 64) if said else ()

    def doorbells(self) -> dict[int, int]:
        said = self.granted["peer-ep"]
        return dict(said[-1]["doorbells"]) if said else {}


def find(grants: Sequence[Grant], addr: int, size: int) -> Grant | None:
    """As the CPU of the other side does."""
    for grant in grants:
        if grant.base <= addr and addr + size <= grant.end:
            return grant
    return None


def near(grants: Sequence[Grant]) -> st.SearchStrategy[int]:
    """Addresses at and about grants."""
    bases = [edge for grant in grants for edge in (grant.base, grant.end)] or [PLACES[0]]
    by = st.integers(-8, 8) | st.integers(-MIB, MIB)
    return st.builds(lambda base, by: max(base + by, 0), st.sampled_from(bases), by)


SIZES = st.sampled_from((1, 2, 4, 8, 64, 4096))


def check_host_store(endpoint: Endpoint, addr: int, size: int) -> bool:
    """A granted store of the host lands on the bytes that the message would; True when it is granted."""
    grant = find(endpoint.of("host"), addr, size)
    if grant is None:
        return False
    local = endpoint.model.epc.find_inbound(addr, size)
    assert local is not None
    at = grant.at + addr - grant.base
    if grant.owner == "edma":
        assert at == local
        assert endpoint.config.profile.endpoint.edma.contains(local, size)
    elif grant.owner:
        assert (grant.owner, at) == ("epc", addr)
    else:
        assert at == local - endpoint.dram.span.base
        endpoint.dram.store("test", at, bytes(size))
        payload = bytes(1 + number % 255 for number in range(size))
        endpoint.host(MemWrite(addr, payload, endpoint.epoch))
        assert endpoint.dram.load(at, size) == payload
    return True


# the host's stores


@pytest.mark.parametrize("profile", SHIPPED)
@settings(max_examples=30)
@given(st.data())
def test_host_store_is_granted_only_where_the_message_would_land(profile: str, data: st.DataObject) -> None:
    endpoint = Endpoint(profile)
    endpoint.set_window()
    grants = endpoint.of("host")
    assert grants

    for grant in grants:
        assert check_host_store(endpoint, grant.base, 4)
        assert check_host_store(endpoint, grant.end - 4, 4)
    check_host_store(endpoint, data.draw(near(grants)), data.draw(SIZES))


@pytest.mark.parametrize("profile", SHIPPED)
def test_client_memory_and_doorbells_are_granted_but_never_control_block_or_scratchpads(profile: str) -> None:
    endpoint = Endpoint(profile)
    endpoint.set_window()
    vntb = endpoint.model.vntb
    doorbells = vntb.doorbells.span
    memory = [
        Span(endpoint.dram.span.base + grant.at, grant.size)
        for grant in endpoint.of("host")
        if grant.owner == MEMORY
    ]

    assert doorbells in memory
    assert any(span.base == endpoint.client_memory + MIB for span in memory)
    for span in memory:
        assert span == doorbells or span.base >= endpoint.client_memory
        assert span == doorbells or not span.overlaps(vntb.ctrl.span)


def test_window_onto_the_control_block_is_not_granted() -> None:
    """A client may point its window at any memory of the endpoint; that stays a matter of messages."""
    endpoint = Endpoint()
    before = endpoint.of("host")
    endpoint.set_window(-FUNCTION_REGION_BYTES)

    assert endpoint.of("host") == before
    window = endpoint.model.epc.find_inbound(PLACES[0] + 2 * 64 * MIB, 4)
    assert window == EP_DRAM


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("place"), st.sampled_from(PLACES), st.booleans()),
        st.tuples(st.just("bar"), st.sampled_from((0, 2, 4)), st.integers(0, 4)),
        st.tuples(st.just("window"), st.integers(0, 3), st.just(0)),
        st.tuples(st.just("clear"), st.just(0), st.just(0)),
        st.tuples(st.just("match"), st.integers(0, 0x200), st.integers(1, 0x100)),
        st.tuples(st.just("place_window"), st.integers(0, 3), st.integers(0, 0x100)),
    ),
    max_size=6,
)


@given(steps=STEPS, data=st.data())
@settings(max_examples=80)
def test_whatever_changes_grants_follow(steps: list[Any], data: st.DataObject) -> None:
    """BARs move on top of one another, windows come, go and overlap."""
    endpoint = Endpoint()
    endpoint.set_window()
    base = PLACES[0] + 2 * 64 * MIB
    for step, number, more in steps:
        try:
            if step == "place":
                endpoint.place(number, decode=bool(more))
            elif step == "bar":
                endpoint.cfg_write(0x10 + 4 * number, PLACES[0] + 2 * 64 * MIB + more * MIB)
            elif step == "window":
                endpoint.set_window(number * MIB)
            elif step == "clear":
                endpoint.call("mw_clear_trans", widx=0)
            elif step == "match":
                place = BusAddr(base + number * PAGE)
                endpoint.model.epc.iatu.program_address_match(
                    place, CpuAddr(endpoint.client_memory), more * PAGE
                )
            else:
                endpoint.model.epc.iatu.disable_inbound(number)
        except KernelError:
            continue
        endpoint.host(CfgRead(0, 4, 1, EPOCH))
        grants = endpoint.of("host")
        for grant in grants:
            assert check_host_store(endpoint, grant.base, min(grant.size, 4))
            assert check_host_store(endpoint, grant.end - 1, 1)
            check_host_store(endpoint, data.draw(near(grants)), data.draw(SIZES))


# what ends a grant


def test_bar_that_moves_is_granted_at_its_new_place_as_far_as_its_windows_move_with_it() -> None:
    """A window that matches addresses stays behind; the doorbells' matches the BAR."""
    endpoint = Endpoint()
    endpoint.set_window()
    before = endpoint.of("host")
    endpoint.place(PLACES[1])
    after = endpoint.of("host")

    doorbells = endpoint.model.vntb.doorbells.span
    assert after == (Grant(PLACES[1] + 4 * 64 * MIB, doorbells.size, MEMORY, doorbells.base - EP_DRAM),)
    endpoint.set_window()
    assert [one.base - PLACES[1] for one in endpoint.of("host")] == [one.base - PLACES[0] for one in before]
    assert not any(find(after, grant.base, 4) for grant in before)


def test_memory_decode_off_ends_every_grant_of_the_host() -> None:
    endpoint = Endpoint()
    endpoint.set_window()
    endpoint.cfg_write(0x04, 4, 2)

    assert endpoint.of("host") == ()


def test_cleared_window_is_not_granted() -> None:
    endpoint = Endpoint()
    before = endpoint.of("host")
    endpoint.set_window()
    assert endpoint.of("host") != before

    endpoint.call("mw_clear_trans", widx=0)
    assert endpoint.of("host") == before


def test_link_that_went_down_grants_nothing_in_the_next_epoch_by_itself() -> None:
    """Hot reset: BARs have no addresses, the host has no MSIs and has mapped nothing."""
    endpoint = Endpoint()
    endpoint.set_window()
    endpoint.enable_msi()
    endpoint.host_grants([Grant(RC_DRAM, MIB, MEMORY, 0)])
    endpoint.map_outbound(0xFE10_0000, RC_DRAM, MIB)
    assert endpoint.of("client")
    for said in endpoint.granted.values():
        said.clear()

    endpoint.seen(endpoint.model.on_path("rc-host", False, 0, "test", 0))
    endpoint.paths_up(EPOCH + 1)

    assert (endpoint.of("host"), endpoint.of("client"), endpoint.doorbells()) == ((), (), {})


def test_unchanged_grants_are_told_once() -> None:
    endpoint = Endpoint()
    endpoint.set_window()
    told = len(endpoint.granted["rc-host"])
    for _ in range(3):
        endpoint.cfg_read(0, 4)
        endpoint.cfg_write(0x04, 6, 2)

    assert len(endpoint.granted["rc-host"]) == told


# the endpoint's stores

SPANS = st.lists(
    st.builds(lambda at, pages: (at * PAGE, pages * PAGE), st.integers(0, 0x180), st.integers(1, 0x80)),
    max_size=3,
)


@given(mapped=SPANS, windows=SPANS, data=st.data())
@settings(max_examples=60)
def test_endpoint_store_is_granted_only_where_the_message_would_land(
    mapped: list[tuple[int, int]], windows: list[tuple[int, int]], data: st.DataObject
) -> None:
    """Through the first outbound window that holds it, into memory that the host mapped for it."""
    endpoint = Endpoint()
    aperture = endpoint.config.profile.endpoint.aperture.base
    host = [Grant(RC_DRAM + at, size, MEMORY, at) for at, size in mapped]
    endpoint.host_grants(host)
    for number, (at, size) in enumerate(windows):
        try:
            endpoint.map_outbound(aperture + at, RC_DRAM + number * 64 * PAGE, size)
        except KernelError:
            continue
    grants = endpoint.of("client")
    for addr in [grant.base for grant in grants] + [data.draw(near(grants)) for _ in range(3)]:
        size = data.draw(SIZES)
        grant = find(grants, addr, size)
        if grant is None:
            continue
        bus = endpoint.model.epc.iatu.find_outbound(addr, size)
        assert bus is not None
        assert find(host, bus, size)
        assert grant.at + addr - grant.base == bus - RC_DRAM
        (message,) = endpoint.seen(endpoint.model.handle("peer-ep", MemWrite(addr, bytes(size), EPOCH), 0))
        assert message == MemWrite(bus, bytes(size), EPOCH)


def test_endpoint_is_granted_what_both_the_window_and_the_host_allow() -> None:
    endpoint = Endpoint()
    endpoint.host_grants([Grant(RC_DRAM + 0x8000, 0x4000, MEMORY, 0x8000)])
    endpoint.map_outbound(0xFE10_0000, RC_DRAM, 0xA000)

    assert endpoint.of("client") == (Grant(0xFE10_8000, 0x2000, MEMORY, 0x8000),)
    assert endpoint.granted["peer-ep"][-1]["memory"] == HOST_IDENT

    endpoint.host_grants([])
    assert endpoint.of("client") == ()


@pytest.mark.parametrize("ending", ["msi-off", "bus-master-off", "host"])
def test_doorbell_bits_are_granted_as_long_as_the_message_would_raise_them(ending: str) -> None:
    endpoint = Endpoint()
    endpoint.enable_msi()
    endpoint.host_grants([])
    endpoint.map_outbound(0xFE10_0000, RC_DRAM, MIB)
    endpoint.host_grants([Grant(RC_DRAM, MIB, MEMORY, 0)])
    doorbells = endpoint.doorbells()
    assert doorbells
    for bit, vector in doorbells.items():
        said = endpoint.model.handle("peer-ep", Irq(IrqSource.PEER_DOORBELL, 1 << bit, EPOCH), 0)
        (message,) = endpoint.seen(said)
        assert message == MemWrite(MSI_ADDRESS, (MSI[1] + vector).to_bytes(4, "little"), EPOCH)

    if ending == "msi-off":
        endpoint.enable_msi(0)
    elif ending == "bus-master-off":
        endpoint.cfg_write(0x04, 2, 2)
    else:
        endpoint.host_grants([Grant(RC_DRAM, MIB, MEMORY, 0)], [0, 0, 0])
    assert endpoint.doorbells() == {}


@pytest.mark.parametrize(
    "args",
    [
        {},
        {"memory": "1", "ranges": [], "msi": MSI},
        {"memory": True, "ranges": [], "msi": MSI},
        {"memory": 1, "ranges": [], "msi": [1, 2]},
        {"memory": 1, "ranges": [], "msi": [1, 2, True]},
        {"memory": 1, "ranges": [[0, 0, "", 0]], "msi": MSI},
    ],
)
def test_impossible_grants_of_the_host_end_those_before(args: dict[str, Any]) -> None:
    endpoint = Endpoint()
    endpoint.host_grants([Grant(RC_DRAM, MIB, MEMORY, 0)])
    endpoint.map_outbound(0xFE10_0000, RC_DRAM, MIB)
    assert endpoint.of("client")

    endpoint.host(Notice("grants", args, EPOCH))
    assert endpoint.of("client") == ()
    assert endpoint.model.counters["grants_refused"] == 1
