"""The configuration of a bridge: one frozen tree, made of TOML text.

The keys and their defaults are in ``sections.py``, the platforms in ``profile.py``; here they
come together, and whatever joins several keys is checked.  Nothing is read from disk except a
shipped profile: the caller hands in texts.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from ntbnet import profile as profiles
from ntbnet.address import round_up
from ntbnet.errors import ConfigError
from ntbnet.profile import Profile
from ntbnet.schema import Integer, TableReader, keys, shown
from ntbnet.sections import (
    HEADERS_BYTES,
    MIN_MTU,
    Bridge,
    Log,
    Netdev,
    Node,
    Nodes,
    Ntb,
    Run,
    Supervisor,
    Timing,
    Transport,
)

CONTROL_BLOCK_BYTES = 512
"""Room for either control block: the larger one, rounded up to a power of two."""

MIN_REGION_BYTES = 128
"""Least that is put behind a BAR. Source: Linux pci-epf-core.c, pci_epf_alloc_space."""

WAKE_ENTRIES = 11
"""Ring entries below which a stopped queue is woken by its timer only."""


@dataclass(frozen=True, slots=True)
class Sections:
    """Every section of a configuration file."""

    bridge: Bridge = Bridge()
    node: Nodes = Nodes()
    netdev: Netdev = Netdev()
    ntb: Ntb = Ntb()
    transport: Transport = Transport()
    timing: Timing = Timing()
    supervisor: Supervisor = Supervisor()
    log: Log = Log()
    run: Run = Run()


@dataclass(frozen=True, slots=True)
class BarAssignment:
    """Which BAR holds what, after -1 has been replaced; 0..5 and all different."""

    ctrl: int
    db: int
    mw1: int


@dataclass(frozen=True, slots=True)
class Config(Sections):
    """A checked configuration with its platform; made by load_text only."""

    profile: Profile = dataclasses.field(kw_only=True)
    bars: BarAssignment = dataclasses.field(kw_only=True)


def load_text(text: str, source: str, read_profile: Callable[[str], str] | None = None) -> Config:
    """Make a configuration of TOML text; a key that is missing has its default.

    Args:
        text: a whole TOML document; empty gives the defaults.
        source: what the text is called in messages, such as its file name.
        read_profile: returns the text behind a path given as bridge.profile.

    Raises:
        ConfigError: one line, beginning with ``source``, naming key, value and allowed range.
    """
    sections = TableReader(source, Sections).read(Sections, profiles.parse(text, source), Sections())
    platform = _profile(sections.bridge.profile, source, read_profile)
    _check_addresses(sections.node, source)
    _check_timing(sections, source)
    bars = _assign_bars(sections, platform, source)
    _check_window(sections, platform, source)
    platform.check_regions(source, sections.node.rc.dram_bytes, sections.node.ep.dram_bytes)
    parts = {field.name: getattr(sections, field.name) for field in dataclasses.fields(Sections)}
    return Config(**parts, profile=platform, bars=bars)


def to_dict(config: Config) -> dict[str, object]:
    """Every section as nested tables, in the file's order; the profile is its name only."""
    tables = dataclasses.asdict(config)
    return {field.name: tables[field.name] for field in dataclasses.fields(Sections)}


def to_toml(config: Config) -> str:
    """The configuration as a complete file; load_text of it gives an equal tree."""
    lines: list[str] = []
    section = ""
    for key in keys(Sections):
        table, _, name = key.name.rpartition(".")
        if table != section:
            lines += ["", f"[{table}]"] if lines else [f"[{table}]"]
            section = table
        value: object = config
        for part in key.name.split("."):
            value = getattr(value, part)
        written = key.rule.written(cast("int", value)) if isinstance(key.rule, Integer) else json.dumps(value)
        lines.append(f"{name} = {written}")
    return "\n".join(lines) + "\n"


def warnings(config: Config) -> list[str]:
    """What is allowed but will not work well, one line each; [] when all is well."""
    found = []
    entries, frame = _ring_entries(config), _frame_bytes(config)
    if entries < WAKE_ENTRIES:
        enough = WAKE_ENTRIES * config.transport.transport_mtu + 4
        found.append(
            f"ntb.mw1 = {config.ntb.mw1:#x}: a ring of {entries} entries that was full is woken by its timer "
            f"only; {enough:#x} bytes avoid that"
        )
    if frame % 4:
        found.append(
            f"transport.transport_mtu = {config.transport.transport_mtu}: frames of {frame} bytes, not a "
            "multiple of 4, put frame headers on unaligned addresses"
        )
    return found


def shared_identity(config: Config) -> dict[str, int | str]:
    """What both ends of a bridge must have equal, by key: two that differ in it are no bridge."""
    ntb, transport, bars = config.ntb, config.transport, config.bars
    return {
        "profile": config.profile.name,
        "ctrl_layout": ntb.ctrl_layout,
        "num_mws": ntb.num_mws,
        "mw1": ntb.mw1,
        "ctrl_bar": bars.ctrl,
        "mw1_bar": bars.mw1,
        "db_bar": bars.db,
        "spad_count": ntb.spad_count,
        "db_count": ntb.db_count,
        "transport_mtu": transport.transport_mtu,
        "max_num_clients": transport.max_num_clients,
        "max_mw_size": transport.max_mw_size,
        "mtu": config.netdev.mtu,
    }


def _profile(name: str, source: str, read_profile: Callable[[str], str] | None) -> Profile:
    where = f"{source}: bridge.profile = {shown(name)}"
    if "/" not in name and not name.endswith(".toml"):
        try:
            text = profiles.shipped(name)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from None
        return profiles.load_profile(text, f"profile {name}")
    if read_profile is None:
        raise ConfigError(f"{where}: a path cannot be read here, give a profile's name")
    try:
        text = read_profile(name)
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"{where}: cannot be read: {error}") from None
    return profiles.load_profile(text, name)


def _check_addresses(nodes: Nodes, source: str) -> None:
    for version, key, low, high in ((4, "ipv4", 8, 30), (6, "ipv6", 16, 126)):
        rc = _interface(nodes.rc, "rc", key, version, (low, high), source)
        ep = _interface(nodes.ep, "ep", key, version, (low, high), source)
        name = f'{source}: node.ep.{key} = "{ep}"'
        if rc.network != ep.network:
            raise ConfigError(f"{name}: must be in the subnet of node.rc.{key}, {rc.network}")
        if rc.ip == ep.ip:
            raise ConfigError(f"{name}: must differ from node.rc.{key}")


def _interface(
    node: Node, role: str, key: str, version: int, prefixes: tuple[int, int], source: str
) -> ipaddress.IPv4Interface | ipaddress.IPv6Interface:
    text: str = getattr(node, key)
    name = f'{source}: node.{role}.{key} = "{text}"'
    low, high = prefixes
    try:
        interface = ipaddress.ip_interface(text)
    except ValueError:
        interface = None
    if interface is None or interface.version != version:
        raise ConfigError(f"{name}: must be an IPv{version} address with prefix length {low}..{high}")
    network, ip = interface.network, interface.ip
    if not low <= network.prefixlen <= high:
        raise ConfigError(f"{name}: prefix length must be {low}..{high}")
    if ip.is_loopback or ip.is_multicast or ip.is_unspecified or ip.is_link_local:
        raise ConfigError(f"{name}: must not be a loopback, multicast, link-local or zero address")
    if ip == network.network_address or (version == 4 and ip == network.broadcast_address):
        raise ConfigError(f"{name}: must not be the first or the broadcast address of {network}")
    return interface


def _check_timing(sections: Sections, source: str) -> None:
    timing, supervisor = sections.timing, sections.supervisor
    if timing.liveness_ms < 3 * timing.heartbeat_ms:
        raise ConfigError(
            f"{source}: timing.liveness_ms = {timing.liveness_ms}: must be {3 * timing.heartbeat_ms}..10000 "
            f"ms, at least three times timing.heartbeat_ms"
        )
    if supervisor.restart_backoff_max_ms < supervisor.restart_backoff_ms:
        raise ConfigError(
            f"{source}: supervisor.restart_backoff_max_ms = {supervisor.restart_backoff_max_ms}: must be "
            f"{supervisor.restart_backoff_ms}..60000 ms, not below supervisor.restart_backoff_ms"
        )


def _assign_bars(sections: Sections, platform: Profile, source: str) -> BarAssignment:
    """Replace -1 as the kernel does: control block, doorbells, window, each the lowest BAR left.

    Source: Linux pci-epf-vntb.c, epf_ntb_init_epc_bar.
    """
    ntb, bars = sections.ntb, platform.endpoint.bars
    wanted = {"ctrl_bar": ntb.ctrl_bar, "db_bar": ntb.db_bar, "mw1_bar": ntb.mw1_bar}
    needs = {
        "ctrl_bar": CONTROL_BLOCK_BYTES + 8 * ntb.spad_count,
        "db_bar": max(MIN_REGION_BYTES, 4 * ntb.db_count),
        "mw1_bar": ntb.mw1,
    }
    taken: dict[int, str] = {}
    for key, bar in wanted.items():
        if bar >= 0:
            if bar in taken:
                raise ConfigError(f"{source}: ntb.{key} = {bar}: must differ from ntb.{taken[bar]}")
            taken[bar] = key
    free = [number for number, bar in enumerate(bars) if bar.is_usable and number not in taken]
    chosen: dict[str, int] = {}
    for key, bar in wanted.items():
        if bar < 0 and not free:
            raise ConfigError(f"{source}: ntb.{key} = -1: no BAR of profile {platform.name} is left for it")
        number = free.pop(0) if bar < 0 else bar
        kind, size = bars[number].kind, bars[number].fixed_size
        name = f"{source}: ntb.{key} = {bar}: BAR{number} of profile {platform.name}"
        if not bars[number].is_usable:
            usable = ", ".join(str(n) for n, one in enumerate(bars) if one.is_usable)
            raise ConfigError(f"{name} is {kind}: must be one of {usable}, or -1")
        if size and needs[key] > size:
            raise ConfigError(f"{name} is fixed at {size} bytes: must be one of at least {needs[key]} bytes")
        chosen[key] = number
    return BarAssignment(chosen["ctrl_bar"], chosen["db_bar"], chosen["mw1_bar"])


def _check_window(sections: Sections, platform: Profile, source: str) -> None:
    mw1, aperture = sections.ntb.mw1, platform.endpoint.aperture_bytes
    dram = min(sections.node.rc.dram_bytes, sections.node.ep.dram_bytes)
    # A window takes a power of two of the aperture, and one page of it always belongs to MSI.
    largest = min(aperture // 2, dram // 4)
    largest = 1 << (largest.bit_length() - 1)
    if mw1 > largest:
        raise ConfigError(
            f"{source}: ntb.mw1 = {mw1:#x}: must be 0x1000..{largest:#x} bytes: half of profile "
            f"{platform.name}'s outbound aperture, and a quarter of the smaller node's DRAM"
        )
    frame = _frame_bytes(sections)
    largest_mtu = frame - HEADERS_BYTES
    if sections.netdev.mtu > largest_mtu:
        raise ConfigError(
            f"{source}: netdev.mtu = {sections.netdev.mtu}: must be {MIN_MTU}..{largest_mtu} bytes: a frame "
            f"of {frame} bytes (transport.transport_mtu, at most half of ntb.mw1) less its 12-byte frame "
            f"header and 14-byte Ethernet header"
        )
    _check_ring(sections, largest, source)


def _used_window_bytes(sections: Sections) -> int:
    cap = sections.transport.max_mw_size
    return min(sections.ntb.mw1, cap) if cap else sections.ntb.mw1


def _frame_bytes(sections: Sections) -> int:
    """Largest frame with all headers; at least two fit the window, which one queue has to itself.

    Source: Linux ntb_transport.c, ntb_transport_init_queue.
    """
    return min(sections.transport.transport_mtu, (_used_window_bytes(sections) - 4) // 2)


def _ring_entries(sections: Sections) -> int:
    return (_used_window_bytes(sections) - 4) // _frame_bytes(sections)


def _check_ring(sections: Sections, largest: int, source: str) -> None:
    """Refuse a ring in which the network device never sees the free entries it waits for.

    One entry of a ring is never used. Source: Linux ntb_netdev.c, ntb_netdev_start_xmit.
    """
    ntb, transport, stop = sections.ntb, sections.transport, sections.netdev.tx_stop
    entries, frame = _ring_entries(sections), _frame_bytes(sections)
    if entries > stop:
        return
    least = (stop + 1) * transport.transport_mtu + 4
    why = f"a ring of {entries} frames of {frame} bytes never has the {stop} free entries of netdev.tx_stop"
    if round_up(least, 4096) > largest:
        raise ConfigError(f"{source}: netdev.tx_stop = {stop}: must be 1..{entries - 1}: {why}")
    if _used_window_bytes(sections) < ntb.mw1 >= round_up(least, 4096):
        least = round_up(least, 4096)
        name = f"transport.max_mw_size = {transport.max_mw_size:#x}"
        raise ConfigError(f"{source}: {name}: must be {least:#x}..{ntb.mw1:#x} bytes, or 0: {why}")
    raise ConfigError(
        f"{source}: ntb.mw1 = {ntb.mw1:#x}: must be {round_up(least, 4):#x}..{largest:#x} bytes: {why}"
    )
