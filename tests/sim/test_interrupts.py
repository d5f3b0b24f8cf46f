"""Interrupt backends between the five models: what each profile uses, what is left when a part fails."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ntbnet.app.interrupts import backend_of
from ntbnet.devices.vntb_windows import MemoryWindows
from ntbnet.errors import KernelError
from ntbnet.profile import SHIPPED
from ntbnet.wire import Irq, IrqSource, MemWrite
from tests.sim.process import MS, SECOND
from tests.sim.test_bridge import ping_pong_us
from tests.sim.test_faults import nth_message
from tests.sim.test_windows import bar, bridge, store, udp
from tests.sim.world import POLLED, SMALL, World

BACKENDS = {
    "r-car-s4": "dw-edma-testirq",
    "r-car-s4-db-in-bar0": "dw-edma-testirq",
    "generic": "msi",
    "rk3588": "dw-edma-testirq",
}
TWO_QUEUES = """
[netdev]
mtu = 9000
queues = 2
[transport]
max_num_clients = 2
transport_mtu = 16384
"""


def backends(world: World) -> tuple[Any, Any]:
    """RC to EP and EP to RC, each with its reason, as ``status`` has them."""
    rc, ep = (world.device(f"peer-{node}").snapshot() for node in ("rc", "ep"))
    return backend_of(rc, ep), backend_of(ep, rc)


def rings(world: World, node: str = "rc") -> list[str]:
    """How a node rings its peer, for each queue that is used."""
    return [row["trigger"] for row in world.device(f"peer-{node}").snapshot()["interrupts"]["rings"]]


def interrupt_windows(world: World) -> list[dict[str, Any]]:
    """Inbound windows that lead to registers now; wired ones always do."""
    endpoint = world.config.profile.endpoint
    pages = {base & ~(endpoint.align - 1) for base in (endpoint.edma_base, endpoint.ep_msi_page) if base}
    return [
        row for row in inbound_windows(world) if row["mode"] != "wired" and int(row["target"], 16) in pages
    ]


def inbound_windows(world: World) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = world.device("epc").snapshot()["windows"]
    return [row for row in rows if row["direction"] == "inbound"]


def count(world: World, service: str, name: str) -> int:
    return int(world.device(service).snapshot()["counters"].get(name, 0))


# each profile


@pytest.mark.covers("EDMA 89", "EDMA 90", "NTB 180")
@pytest.mark.parametrize("profile", SHIPPED)
def test_profile_uses_the_first_backend_it_has_and_hears_each_packet_at_once(profile: str) -> None:
    world = bridge(profile)
    to_ep, to_rc = backends(world)

    assert to_ep[0] == BACKENDS[profile]
    assert to_rc[0] == "doorbell"
    assert "no MSI vector is left" in to_rc[1]
    polls = count(world, "epc", "doorbell_polls_hit")
    assert ping_pong_us(world) < 500
    assert count(world, "epc", "doorbell_polls_hit") == polls
    name = "msi_interrupts" if profile == "generic" else "edma_interrupts"
    assert count(world, "peer-ep", name) >= 21


def times_rung(world: World, name: str) -> int:
    return sum(int(queue["rings"]) for queue in world.device(name).snapshot()["link"]["queues"])


@pytest.mark.parametrize("profile", SHIPPED)
def test_what_is_rung_with_counts_each_ring_of_the_sender(profile: str, fabric: str) -> None:
    world = bridge(profile)
    counted_by = ("epc", "local_msis") if profile == "generic" else ("edma", "test_interrupts")

    def counters() -> tuple[int, int, int, int]:
        to_rc = count(world, "rc-host", "msis") + count(world, "peer-rc", "msis")
        return (
            times_rung(world, "peer-rc"),
            count(world, *counted_by),
            times_rung(world, "peer-ep"),
            to_rc,
        )

    before = counters()
    ping_pong_us(world)
    rung, counted, answers_rung, answers = (
        after - at_first for after, at_first in zip(counters(), before, strict=True)
    )

    assert rung == counted >= 20
    assert answers_rung == answers >= 20


def test_interrupts_are_at_least_12_times_faster_than_polls(fabric: str) -> None:
    polled = ping_pong_us(World(seed=5, text=SMALL + POLLED).bring_up())
    interrupted = ping_pong_us(World(seed=5).bring_up())

    assert polled == pytest.approx(5995.68, rel=0.05)
    assert polled / interrupted > 12


def test_a_round_trip_has_as_many_hops_as_it_should(fabric: str) -> None:
    """Each takes 100 us: to the engine, to the EP's CPU and back, and in messages twice by the controller."""
    world = World(seed=5, latency_us=(100, 100)).bring_up()

    assert 2 * ping_pong_us(world) == pytest.approx({"local": 300, "message": 500}[fabric], rel=0.05)


def test_engine_that_starts_long_after_its_cpu_is_used_all_the_same() -> None:
    world = World(seed=11)
    world.start("rc-host", "epc", "peer-rc", "peer-ep")
    world.settle(lambda: all(world.carrier.values()), 5 * SECOND)
    assert backends(world)[0][0] == "doorbell"

    world.start("edma")

    world.settle(lambda: backends(world)[0][0] == "dw-edma-testirq", SECOND)
    world.exchange(3)


def test_link_begins_with_the_interrupts_of_an_engine_that_starts_a_little_later() -> None:
    world = World(seed=12)
    world.start("rc-host", "epc", "peer-rc", "peer-ep")
    world.run_for(50 * MS)
    world.start("edma")
    world.settle(lambda: all(world.carrier.values()), SECOND)

    assert backends(world)[0][0] == "dw-edma-testirq"
    assert world.events("intr.failed") == []
    assert [row["trigger"] for row in world.events("intr.trigger_changed", "peer-rc")] == ["0xa0=0x0"]


@pytest.mark.parametrize("profile", SHIPPED)
def test_use_intr_false_is_doorbells_both_ways_with_the_reason(profile: str) -> None:
    world = bridge(profile, POLLED)
    world.exchange(3)

    assert backends(world) == (("doorbell", "transport.use_intr = false"),) * 2
    assert count(world, "peer-ep", "edma_interrupts") <= 1
    assert interrupt_windows(world) == []


@pytest.mark.parametrize("profile", [name for name in SHIPPED if name != "generic"])
def test_without_the_edma_driver_there_are_doorbells_and_a_reason(profile: str) -> None:
    world = bridge(profile, "[transport]\ndw_edma = false\n")
    world.exchange(3)
    inject_line(world)

    name, reason = backends(world)[0]
    assert name == "doorbell"
    assert "transport.dw_edma = false" in reason
    assert count(world, "peer-ep", "irqs_spurious") > 0


def test_dw_edma_does_not_matter_where_there_is_msi() -> None:
    assert backends(bridge("generic", "[transport]\ndw_edma = false\n"))[0][0] == "msi"


def test_window_for_the_edma_on_a_platform_with_msi_takes_the_edma() -> None:
    world = bridge("generic", '[ntb]\nmw2_target = "edma"\n')
    world.exchange(3)

    assert backends(world)[0][0] == "dw-edma-testirq"


def test_deprecated_name_is_one_line_in_each_log() -> None:
    world = bridge(text="[transport]\nuse_msi = false\n")
    world.restart("peer-rc")
    world.until_epoch(2)

    assert backends(world)[0] == ("doorbell", "transport.use_intr = false")
    assert len(world.events("config.deprecated", "peer-ep")) == 1


def send_flows(world: World) -> None:
    """Twenty flows of one packet, over both queues."""
    world.run_for(50 * MS)
    for number in range(20):
        world.send("rc", udp(world, number, number))
    world.run_for(20 * MS)
    assert len(world.delivered["ep"]) == 20


@pytest.mark.covers("EDMA 104", "HAZARD 11.h")
def test_one_edma_ring_runs_the_handler_of_every_queue() -> None:
    world = bridge(text=TWO_QUEUES)
    send_flows(world)

    assert rings(world) == ["0xa0=0x0"] * 2
    queues = world.device("peer-ep").snapshot()["link"]["queues"]
    assert queues[0]["interrupts"] == queues[1]["interrupts"] > 0
    assert all(queue["rx_pkts"] for queue in queues)


@pytest.mark.covers("EDMA 101")
def test_each_queue_has_its_own_msi() -> None:
    world = bridge("generic", TWO_QUEUES)
    send_flows(world)

    assert rings(world) == ["0x40=0x50", "0x40=0x51"]
    queues = world.device("peer-ep").snapshot()["link"]["queues"]
    assert [queue["interrupts"] for queue in queues] == [queue["rx_pkts"] for queue in queues]


# what the window leads to


@pytest.mark.covers("HAZARD 11.c", "EDMA 88")
@pytest.mark.parametrize("profile", SHIPPED)
def test_interrupt_window_is_there_again_in_every_epoch_and_takes_no_more_windows(profile: str) -> None:
    world = bridge(profile)
    first = len(inbound_windows(world))
    for epoch in range(2, 6):
        world.restart(("peer-rc", "peer-ep", "epc", "rc-host")[epoch % 4])
        world.until_epoch(epoch)
        world.exchange(2)
        assert backends(world)[0][0] == BACKENDS[profile]

    assert len(inbound_windows(world)) == first


@pytest.mark.parametrize("profile", [name for name in SHIPPED if name != "rk3588"])
def test_window_goes_with_its_user(profile: str) -> None:
    world = bridge(profile)
    assert len(interrupt_windows(world)) == 1
    world.kill("peer-ep")
    world.run_for(3 * SECOND)

    assert interrupt_windows(world) == []


@pytest.mark.parametrize("profile", [name for name in SHIPPED if name != "rk3588"])
def test_window_that_cannot_be_opened_leaves_doorbells_and_the_link_comes_up(
    profile: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    translate = MemoryWindows.open

    def refuse(self: MemoryWindows, widx: int, target: int, size: int, offset: int) -> None:
        if widx == 1:
            raise KernelError(28, "no window left")
        translate(self, widx, target, size, offset)

    monkeypatch.setattr(MemoryWindows, "open", refuse)
    world = bridge(profile)
    world.exchange(5)

    (failure,) = world.events("intr.failed", "peer-ep")
    assert (failure["backend"], failure["step"]) == (BACKENDS[profile], "setup_mws")
    assert f"{BACKENDS[profile]} failed in setup_mws" in backends(world)[0][1]
    assert "no window left" in failure["reason"]
    assert backends(world)[0][0] == "doorbell"


# an engine or a controller that fails


@pytest.mark.parametrize("profile", SHIPPED)
@pytest.mark.parametrize("at_ms", range(0, 9, 2))
def test_killed_engine_strands_no_packet_and_needs_no_new_link(profile: str, at_ms: int) -> None:
    world = bridge(profile, seed=at_ms + 1)
    world.start_traffic()
    world.run_for(50 * MS + at_ms * 500_000)
    world.restart("edma")
    world.run_for(60 * MS)
    world.stop_traffic()
    sent = world._numbers["rc"]
    world.run_for(50 * MS)

    assert world.check_history() == sent + world._numbers["ep"]
    assert world.epoch == 1
    assert backends(world)[0][0] == BACKENDS[profile]


def test_engine_that_stays_away_leaves_doorbells_until_it_is_back() -> None:
    world = bridge()
    world.start_traffic()
    world.run_for(100 * MS)
    world.kill("edma")
    world.run_for(3 * SECOND)

    assert backends(world)[0][0] == "doorbell"
    assert [row["step"] for row in world.events("intr.failed", "peer-ep")] == ["request_irq"]
    world.start("edma")
    world.run_for(SECOND)
    world.stop_traffic()
    assert backends(world)[0][0] == "dw-edma-testirq"
    assert world.epoch == 1
    assert world.check_history() == world._numbers["rc"] + world._numbers["ep"]


@pytest.mark.parametrize("kind", ["drop", "damage", "swap", "repeat"])
@pytest.mark.parametrize("link", [("epc", "edma"), ("edma", "peer-ep"), ("peer-ep", "edma")], ids="-".join)
def test_lost_ring_or_acknowledge_strands_nothing(link: tuple[str, str], kind: str) -> None:
    world = World(seed=3).bring_up()
    world.faults[link] = nth_message(kind)
    world.start_traffic()
    world.run_for(200 * MS)
    world.stop_traffic()
    world.run_for(100 * MS)

    assert world.check_history() == world._numbers["rc"] + world._numbers["ep"]
    assert world.epoch == 1


# interrupts nobody sent


def inject_line(world: World, lines: int = 1) -> None:
    process = world.processes["peer-ep"]
    process.perform(process.device.handle("edma", Irq(IrqSource.EDMA_LINE, lines), world.now_ns))


def stray_line(world: World) -> None:
    inject_line(world, world.random.getrandbits(64))


def stray_msi(world: World) -> None:
    process = world.processes["peer-ep"]
    message = Irq(IrqSource.MSI_VECTOR, world.random.randrange(1020), world.epoch)
    process.perform(process.device.handle("epc", message, world.now_ns))


def stray_test_interrupt(world: World) -> None:
    process = world.processes["edma"]
    base = world.config.profile.endpoint.edma_base
    process.perform(process.device.handle("epc", MemWrite(base + 0xA0, bytes(4)), world.now_ns))


@pytest.mark.parametrize("stray", [stray_line, stray_msi, stray_test_interrupt])
@pytest.mark.parametrize("profile", ["r-car-s4", "generic"])
def test_spurious_interrupts_change_nothing(profile: str, stray: Callable[[World], None]) -> None:
    world = bridge(profile)
    world.start_traffic()
    for _ in range(100):
        stray(world)
        world.run_for(world.random.randrange(2 * MS))
    world.stop_traffic()

    assert world.check_history() == world._numbers["rc"] + world._numbers["ep"]
    assert world.epoch == 1
    assert not world.device("edma").snapshot()["line_high"]


def test_moved_interrupt_is_published_and_rung_at_its_new_place() -> None:
    world = bridge("generic")
    world.exchange(3)
    process, peer = world.processes["peer-ep"], world.device("peer-ep")
    peer._msi.retarget(1)
    process.perform(process.device.handle("edma", Irq(IrqSource.EDMA_LINE, 0), world.now_ns))
    world.run_for(20 * MS)

    assert rings(world) == ["0x40=0x51"]
    world.exchange(5, within_ns=100 * MS)


def test_store_to_any_interrupt_word_is_only_a_ring() -> None:
    world = bridge("r-car-s4")
    for data in (bytes(4), b"\xff" * 4, b"\x01\0\0\0"):
        store(world, bar(world, 2) + 0xF00A0, data)
        world.run_for(5 * MS)

    assert world.device("edma").registers.get("RD_INT_STATUS") == 0
    world.exchange(3)
