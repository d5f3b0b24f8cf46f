from __future__ import annotations

import pytest

from ntbnet.profile import SHIPPED
from ntbnet.wire import MemWrite
from tests.sim.process import MS, SECOND
from tests.sim.world import SMALL, World, packet_of

FOUR_WINDOWS = """
[ntb]
num_mws = 4
mw1 = 0x40000
mw2 = 0x40000
mw3 = 0x40000
mw4 = 0x40000
mw2_offset = 0x40000
mw3_offset = 0x80000
mw4_offset = 0xC0000
mw1_bar = 2
mw2_bar = 2
mw3_bar = 2
mw4_bar = 2
mw2_target = "none"
[transport]
max_num_clients = 4
transport_mtu = 0x4000
[netdev]
mtu = 9000
queues = 4
"""


def bridge(profile: str = "r-car-s4", text: str = "", seed: int = 1) -> World:
    return World(seed=seed, text=f'{text}{SMALL}[bridge]\nprofile = "{profile}"\n').bring_up()


def store(world: World, addr: int, data: bytes) -> None:
    """A store of the host's CPU to the PCI aperture."""
    host = world.processes["rc-host"]
    host.perform(host.device.handle("peer-rc", MemWrite(addr, data, world.epoch), world.now_ns))


def bar(world: World, number: int) -> int:
    """Bus address of a BAR."""
    text: str = world.device("rc-host").snapshot()["bars"][str(number)]
    return int(text[1:].partition(",")[0], 16)


def move(world: World, number: int) -> None:
    """The host gives a BAR another address."""
    effects = world.device("rc-host").reassign_bar(number, world.now_ns)
    world.processes["rc-host"].perform(effects)


def rows(world: World, number: int) -> list[dict[str, object]]:
    return [row for row in world.device("epc").snapshot()["windows"] if row["bar"] == number]


@pytest.mark.parametrize("profile", SHIPPED)
def test_every_profile_carries_traffic_and_recovers(profile: str) -> None:
    world = bridge(profile)
    world.exchange(10, size=1500)
    world.restart("epc")
    world.until_epoch(2)

    world.exchange(3, size=9000)


@pytest.mark.covers("EDMA 103", "EDMA 147")
@pytest.mark.parametrize(
    ("profile", "number", "offset"),
    [("r-car-s4", 2, 0xF00A0), ("r-car-s4-db-in-bar0", 4, 0xA0), ("rk3588", 4, 0xA0)],
)
def test_store_to_the_interrupt_window_rings_the_endpoints_cpu(
    profile: str, number: int, offset: int
) -> None:
    world = bridge(profile)
    before = world.device("peer-ep").counters["edma_interrupts"]
    store(world, bar(world, number) + offset, bytes(4))
    world.run_for(5 * MS)

    assert world.device("peer-ep").counters["edma_interrupts"] == before + 1
    assert world.events("edma.line_raised")[-1] == {"line": 0, "register": "RD_INT_STATUS"}


def test_number_stored_through_the_generic_interrupt_window_interrupts_the_endpoint() -> None:
    world = bridge("generic")
    store(world, bar(world, 2) + 0xE0000 + 0x40, (80).to_bytes(4, "little"))
    store(world, bar(world, 2) + 0xE0000 + 0x40, (40).to_bytes(4, "little"))
    world.run_for(5 * MS)

    assert world.device("epc").counters["local_msis"] == 2
    assert world.device("peer-ep").counters["msi_interrupts"] == 1
    assert world.device("peer-ep").counters["irqs_spurious"] == 1


@pytest.mark.covers("HAZARD 10.29")
def test_host_that_finds_msix_gets_msix() -> None:
    world = bridge("rk3588")
    world.exchange(3)

    assert world.device("epc").epc.get_msix() == 16
    assert world.device("epc").epc.get_msi() == 0
    assert world.device("peer-rc").counters["msis"] > 0
    assert world.device("peer-rc").counters["dma_read_faults"] == 0


@pytest.mark.covers("EDMA 145")
def test_wired_window_takes_no_inbound_window() -> None:
    world = bridge("rk3588")

    assert [(row["mode"], row["index"]) for row in rows(world, 4)] == [("wired", -1)]


@pytest.mark.covers("EDMA 88", "HAZARD 11.c")
def test_ten_link_epochs_use_no_more_windows_than_one() -> None:
    world = bridge()
    first = len(world.device("epc").snapshot()["windows"])
    for epoch in range(2, 12):
        world.restart("peer-rc")
        world.until_epoch(epoch)

    assert len(world.device("epc").snapshot()["windows"]) == first


@pytest.mark.covers("EDMA 32", "EDMA 33")
@pytest.mark.parametrize("profile", SHIPPED)
def test_bar_moved_under_traffic_comes_back_at_its_new_place(profile: str) -> None:
    world = bridge(profile)
    old = bar(world, 2)
    world.start_traffic()
    world.run_for(200 * MS)
    move(world, 2)
    world.until_epoch(2)
    world.run_for(200 * MS)
    world.stop_traffic()

    assert bar(world, 2) != old
    by_address = world.config.windows[0].mode != "bar"
    assert (world.device("epc").snapshot()["counters"]["windows_went_stale"] > 0) == by_address
    assert bool(world.events("iatu.region_stale", "epc")) == by_address
    assert not any(row["stale"] for row in rows(world, 2))
    assert world.check_history() > 100
    world.exchange(5, size=9000)


def test_bar_that_is_moved_every_second_loses_no_order_and_damages_nothing() -> None:
    world = bridge(seed=7)
    world.start_traffic()
    for epoch in range(2, 8):
        world.run_for(world.random.randrange(SECOND))
        move(world, world.random.choice((0, 2, 4)))
        world.until_epoch(epoch)
    world.stop_traffic()

    assert world.check_history() > 500


def test_offset_layouts_carry_traffic_the_other_way_too() -> None:
    """Data window behind the interrupt window, in each way a window can be programmed."""
    text = "num_mws = 2\nmw1 = 0xE0000\nmw1_offset = 0x10000\nmw2 = 0x8000\nmw2_offset = 0\n"
    for inbound in ("map", "submap"):
        world = bridge(text=f'[ntb]\n{text}inbound = "{inbound}"\n')
        world.exchange(5, size=9000)
        assert {row["mode"] for row in rows(world, 2)} == {inbound}
        before = world.device("edma").counters["test_interrupts"]
        store(world, bar(world, 2) + 0xA0, bytes(4))
        world.run_for(5 * MS)
        assert world.device("edma").counters["test_interrupts"] == before + 1


def udp(world: World, port: int, number: int, size: int = 1000) -> bytes:
    """A packet of UDP flow ``port`` that carries its number."""
    head = bytes((0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 77, 0, 1, 10, 77, 0, 2))
    return head + port.to_bytes(4, "big") + packet_of(world.random, number, size)


@pytest.mark.parametrize("inbound", ["map", "submap"])
def test_four_windows_in_one_bar_carry_four_queues(inbound: str) -> None:
    world = bridge(text=FOUR_WINDOWS.replace("[ntb]", f'[ntb]\ninbound = "{inbound}"'))
    packets = {port: [udp(world, port, number) for number in range(10)] for port in range(16)}
    for batch in zip(*packets.values(), strict=True):
        for packet in batch:
            world.send("rc", packet)
            world.send("ep", packet)
        world.run_for(15 * MS)
    world.settle(lambda: all(len(arrived) == 160 for arrived in world.delivered.values()), SECOND)

    for node in ("rc", "ep"):
        queues = world.device(f"peer-{node}").snapshot()["link"]["queues"]
        assert [queue["link"] for queue in queues] == ["up"] * 4
        assert all(queue["rx_pkts"] for queue in queues)
        for flow in packets.values():
            assert [packet for packet in world.delivered[node] if packet in flow] == flow
    assert len([row for row in rows(world, 2) if int(str(row["target"]), 16) < 1 << 48]) == 4


@pytest.mark.covers("EDMA 15", "EDMA 17")
@pytest.mark.parametrize("profile", SHIPPED)
def test_controller_is_asked_for_what_the_profile_built_into_it(profile: str) -> None:
    world = bridge(profile)
    hardware = world.config.profile.endpoint

    assert world.device("epc").snapshot()["iatu"] == {
        "outbound": hardware.outbound_windows,
        "inbound": hardware.inbound_windows,
        "region_align": hardware.align,
        "region_limit": hardware.region_limit,
    }
