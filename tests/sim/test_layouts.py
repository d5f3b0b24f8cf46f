"""Layouts that are accepted run, and ``explain`` says of a running one what its controller does."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from ntbnet.app.layout_cli import running_walk
from ntbnet.config import Checked, Config, Sections, check_text
from ntbnet.errors import KernelError
from ntbnet.layout import layout_of
from ntbnet.layout_explain import Walk
from ntbnet.layout_plan import make_plan
from ntbnet.profile import SHIPPED, load_profile, shipped
from tests.sim.process import SECOND
from tests.sim.world import SMALL, World
from tests.unit.test_layout_rules import FOUR_QUEUES, FOUR_WINDOWS

SMALL_FRAMES = "[transport]\ntransport_mtu = 2048\n[netdev]\nmtu = 1500\n"
PROFILES = {name: load_profile(shipped(name), name) for name in SHIPPED}


@st.composite
def layouts(draw: st.DrawFn) -> str:
    """Configurations that are likely to be accepted: windows side by side, gaps between them."""
    name = draw(st.sampled_from(SHIPPED))
    profile = PROFILES[name]
    align, own = profile.endpoint.align, profile.ntb
    inbound = draw(st.sampled_from(["map", "submap", "bar"]))
    count = draw(st.integers(1, 4))
    ctrl, db = draw(st.sampled_from([(own.ctrl_bar, own.db_bar), (own.ctrl_bar, own.ctrl_bar), (-1, -1)]))
    usable = [n for n, bar in enumerate(profile.endpoint.bars) if bar.is_usable and n not in {ctrl, db}]
    lines = [f'inbound = "{inbound}"', f"num_mws = {count}", f"ctrl_bar = {ctrl}", f"db_bar = {db}"]
    lines.append(f'mw2_target = "{draw(st.sampled_from(["none", own.mw2_target]))}"')
    at: dict[int, int] = {}
    for number in range(1, count + 1):
        left = [bar for bar in usable if inbound != "bar" or bar not in at]
        assume(left)
        bar = draw(st.sampled_from(left))
        gap = draw(st.integers(0, 2)) if inbound != "bar" else 0
        start, size = at.get(bar, 0) + gap * align, max(align, 0x8000) * draw(st.integers(1, 6))
        lines += [f"mw{number} = {size}", f"mw{number}_offset = {start}", f"mw{number}_bar = {bar}"]
        at[bar] = start + size
    return f'bridge.profile = "{name}"\n[ntb]\n' + "\n".join(lines) + "\n" + SMALL_FRAMES + SMALL


def queues_of(world: World) -> list[dict[str, Any]]:
    """Every queue of the RC's transport, as status shows it."""
    found: list[dict[str, Any]] = world.device("peer-rc").snapshot()["link"]["queues"]
    return found


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.filter_too_much])
@given(text=layouts())
def test_accepted_layout_carries_traffic(text: str) -> None:
    assume(check_text(text, "x").config is not None)

    world = World(seed=4, text=text).bring_up()

    world.exchange(3, size=1400)
    assert len(queues_of(world)) == len(world.config.data_windows)
    world.settle(
        lambda: all(queue["link"] == "up" for queue in queues_of(world) if queue["has_client"]), SECOND
    )


@st.composite
def likely_broken(draw: st.DrawFn) -> str:
    """Configurations that are likely to be refused: any BAR, sizes and offsets that may collide."""
    name = draw(st.sampled_from(SHIPPED))
    count = draw(st.integers(1, 4))
    lines = [
        f"num_mws = {count}",
        f'inbound = "{draw(st.sampled_from(["map", "submap", "bar"]))}"',
        f'mw2_target = "{draw(st.sampled_from(["none", "edma", "msi"]))}"',
    ]
    lines += draw(st.lists(st.integers(-1, 5).map(lambda bar: f"ctrl_bar = {bar}"), max_size=1))
    lines += draw(st.lists(st.integers(-1, 5).map(lambda bar: f"db_bar = {bar}"), max_size=1))
    lines += draw(st.lists(st.integers(4, 32).map(lambda slots: f"db_count = {slots}"), max_size=1))
    sizes = [0x100, 0x1000, 0x1800, 0x8000, 0x10000, 0x80000, 0xF0000, 0x200000]
    end = 0
    for number in range(1, count + 1):
        size, start = draw(st.sampled_from(sizes)), draw(st.sampled_from([0, 0x800, 0x1000, 0x10000, end]))
        bar = draw(st.sampled_from([2, 4, 2, 4, -1, 0, 1, 3, 5]))
        lines += [f"mw{number} = {size}", f"mw{number}_offset = {start}", f"mw{number}_bar = {bar}"]
        end = start + size
    return f'bridge.profile = "{name}"\n[ntb]\n' + "\n".join(lines) + "\n" + SMALL_FRAMES + SMALL


def unchecked(checked: Checked) -> Config | None:
    """The configuration as if nothing had been refused; None when a BAR is missing altogether."""
    plan = make_plan(checked.sections.ntb, checked.profile)
    if plan is None:
        return None
    return Config(
        **{field.name: getattr(checked.sections, field.name) for field in dataclasses.fields(Sections)},
        profile=checked.profile,
        bars=plan.bars,
        windows=plan.windows,
        db_region=plan.db_region,
        bar_sizes=plan.bar_sizes,
    )


def runs(config: Config) -> bool:
    """Whether packets cross on every queue, and each window leads where it should from end to end."""
    try:
        world = World(seed=4, config=config).bring_up()
        world.exchange(3, size=1400)
    except (KernelError, ValueError, AssertionError):
        return False
    if len(queues_of(world)) != len(config.data_windows):
        return False
    walk = running_walk(config, {name: world.device(name).snapshot() for name in ("rc-host", "epc")})
    endpoint = config.profile.endpoint
    registers = {
        "edma": ("edma.RD_INT_STATUS", endpoint.edma_base + 0xA0),
        "msi": ("msi+0x40", endpoint.ep_msi_page + 0x40),
    }
    for window in config.windows:
        ends = {0: f"{window.name}+0x0", window.size - 1: f"{window.name}+{window.size - 1:#x}"}
        if window.purpose != "data":
            name, register = registers[window.target]
            align = 0x1000 if window.mode == "wired" else endpoint.align
            ends = {register % align: name}
        for offset, name in ends.items():
            if walk.explain(f"BAR{window.bar}+{window.offset + offset}").target != name:
                return False
    return True


HARMLESS_ALONE = (
    "must be a multiple of",  # a size: hardware would round it up and let the host reach more
    "data windows need",  # a budget of ours: the rest of the node's memory is the driver's
)
"""Rules that refuse what this model would run."""


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.filter_too_much])
@given(text=likely_broken())
def test_refused_layout_does_not_run_when_it_is_forced(text: str) -> None:
    checked = check_text(text, "x")
    assume(any(not one.rule.startswith(HARMLESS_ALONE) for one in checked.violations))
    config = unchecked(checked)
    assume(config is not None)
    assert config is not None

    assert not runs(config), [str(violation) for violation in checked.violations]


@pytest.mark.parametrize("profile", SHIPPED)
def test_shipped_layout_counts_as_one_that_runs(profile: str) -> None:
    """Else the test above would say nothing."""
    config = check_text(f'bridge.profile = "{profile}"\n{SMALL}', "x").config

    assert config is not None
    assert runs(config)


@pytest.mark.parametrize("profile", SHIPPED)
@given(data=st.data())
@settings(deadline=None, max_examples=40)
def test_walk_through_a_running_bridge_agrees_with_the_plan(profile: str, data: st.DataObject) -> None:
    world = WORLDS.setdefault(profile, World(seed=5, text=f'bridge.profile = "{profile}"\n' + SMALL))
    if not world.processes:
        world.bring_up()
    answers = {name: world.device(name).snapshot() for name in ("rc-host", "epc")}
    bar = data.draw(st.sampled_from(layout_of(world.config).bars))
    address = f"BAR{bar.number}+{data.draw(st.integers(0, bar.size - 1))}"

    actual, planned = (
        running_walk(world.config, answers).explain(address),
        Walk(world.config).explain(address),
    )

    assert actual.target == planned.target


WORLDS: dict[str, World] = {}


def test_four_windows_in_one_bar_give_four_queues_a_ring_each() -> None:
    world = World(seed=6, text=f"[ntb]{FOUR_WINDOWS}{FOUR_QUEUES}{SMALL}").bring_up()

    world.exchange(5, size=9000)

    queues = queues_of(world)
    assert [queue["tx_max_entry"] for queue in queues] == [15] * 4
