"""The configuration of a bridge: one frozen tree, made of TOML text.

The keys and their defaults are in ``sections.py``, the platforms in ``profile.py``, the rules of BARs
and windows in ``layout_*.py``; here they come together.  Nothing is read from disk except a
shipped profile: the caller hands in texts.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from ntbnet import profile as profiles
from ntbnet.errors import ConfigError
from ntbnet.layout_plan import BarAssignment, DoorbellRegion, Plan, WindowPlan, make_plan
from ntbnet.layout_resources import resource_violations
from ntbnet.layout_rules import arrangement_violations, kernel_surprises
from ntbnet.layout_traffic import longest_packet, traffic_violations, traffic_warnings
from ntbnet.profile import Profile
from ntbnet.schema import Integer, Rule, Switch, TableReader, Violation, keys, shown
from ntbnet.sections import (
    MAX_MWS,
    Bridge,
    Log,
    Machine,
    Netdev,
    Node,
    Nodes,
    Ntb,
    Run,
    Supervisor,
    Timing,
    Trace,
    Transport,
)


@dataclass(frozen=True, slots=True)
class Sections:
    """Every section of a configuration file."""

    bridge: Bridge = Bridge()
    machine: Machine = Machine()
    node: Nodes = Nodes()
    netdev: Netdev = Netdev()
    ntb: Ntb = Ntb()
    transport: Transport = Transport()
    timing: Timing = Timing()
    supervisor: Supervisor = Supervisor()
    log: Log = Log()
    trace: Trace = Trace()
    run: Run = Run()


@dataclass(frozen=True, slots=True)
class Config(Sections):
    """A checked configuration with its platform and its layout; made by load_text only."""

    profile: Profile = dataclasses.field(kw_only=True)
    bars: BarAssignment = dataclasses.field(kw_only=True)
    windows: tuple[WindowPlan, ...] = dataclasses.field(kw_only=True)
    db_region: DoorbellRegion = dataclasses.field(kw_only=True)
    bar_sizes: Mapping[int, int] = dataclasses.field(kw_only=True)

    @property
    def nodes(self) -> tuple[str, ...]:
        """The nodes that run on this machine."""
        return ("rc", "ep") if self.machine.node == "both" else (self.machine.node,)

    @property
    def is_apart(self) -> bool:
        """True when the other node is on another machine."""
        return self.machine.node != "both"

    @property
    def data_windows(self) -> tuple[WindowPlan, ...]:
        """The windows that carry frames; the others reach registers of the endpoint."""
        return tuple(window for window in self.windows if window.purpose == "data")


@dataclass(frozen=True, slots=True)
class Checked:
    """What a text says, and every rule it breaks.

    Attributes:
        sections: the keys, with the profile's defaults; a refused value has a stand-in.
        config: None when a rule is broken.
    """

    sections: Sections
    profile: Profile
    violations: tuple[Violation, ...]
    config: Config | None


ReadProfile = Callable[[str], str]
"""Returns the text behind a path given as bridge.profile."""


def load_text(
    text: str,
    source: str,
    read_profile: ReadProfile | None = None,
    profile: str | None = None,
    node: str | None = None,
) -> Config:
    """Make a configuration of TOML text; a key that is missing has its default.

    Args:
        text: a whole TOML document; empty gives the defaults.
        source: what the text is called in messages, such as its file name.
        read_profile: returns the text behind a path given as bridge.profile.
        profile: takes the place of bridge.profile.
        node: takes the place of machine.node.

    Raises:
        ConfigError: one line, beginning with ``source``, naming key, value and allowed range.
    """
    checked = check_text(text, source, read_profile, profile, node)
    if checked.config is None:
        raise ConfigError(f"{source}: {checked.violations[0]}")
    return checked.config


def check_text(
    text: str,
    source: str,
    read_profile: ReadProfile | None = None,
    profile: str | None = None,
    node: str | None = None,
) -> Checked:
    """As load_text, but every unknown key and every broken rule of a value or of the layout is collected.

    Raises:
        ConfigError: the text is no configuration at all (no table, no TOML, no profile), or wrong in
            what is no part of the layout.
    """
    table = profiles.parse(text, source)
    refused: list[Violation] = []
    bridge = TableReader(source, Sections, refused).read(Bridge, table.get("bridge", {}), Bridge(), "bridge.")
    for violation in refused:
        if violation.key == "bridge.profile" and profile is None:
            # without it nothing else can be judged
            raise ConfigError(f"{source}: {violation}")
    if profile is not None:
        bridge = dataclasses.replace(bridge, profile=profile)
    platform = _profile(bridge.profile, source, read_profile)
    refused = []
    given = table.get("ntb")
    defaults = Sections(ntb=_ntb_defaults(platform.ntb, given if isinstance(given, dict) else {}))
    sections = TableReader(source, Sections, refused).read(Sections, table, defaults)
    sections = dataclasses.replace(sections, bridge=bridge)
    if node is not None:
        sections = dataclasses.replace(sections, machine=dataclasses.replace(sections.machine, node=node))
    if not refused:
        _check_machine(sections, source)
        _check_addresses(sections.node, source)
        _check_timing(sections, source)
        platform.check_regions(source, sections.node.rc.dram_bytes, sections.node.ep.dram_bytes)
    transport = sections.transport
    if "auto" not in (transport.use_msi, transport.use_intr) and transport.use_msi != transport.use_intr:
        rule = f"must be {transport.use_intr}, as transport.use_intr is, or left out: they are one key"
        refused.append(Violation("transport.use_msi", transport.use_msi, rule, transport.use_msi))
    ntb = sections.ntb
    dram_bytes = min(sections.node.rc.dram_bytes, sections.node.ep.dram_bytes)
    found = arrangement_violations(ntb, platform)
    wrong = frozenset(violation.key for violation in (*refused, *found))
    found += resource_violations(ntb, platform, dram_bytes, wrong)
    plan = make_plan(ntb, platform)
    if plan is not None:
        found += traffic_violations(ntb, sections.transport, sections.netdev, platform, plan, wrong)
    known = {violation.key for violation in refused}
    violations = (*refused, *(violation for violation in found if violation.key not in known))
    if plan is None or violations:
        return Checked(sections, platform, violations, None)
    parts = {field.name: getattr(sections, field.name) for field in dataclasses.fields(Sections)}
    config = Config(
        **parts,
        profile=platform,
        bars=plan.bars,
        windows=plan.windows,
        db_region=plan.db_region,
        bar_sizes=plan.bar_sizes,
    )
    return Checked(sections, platform, (), config)


def _ntb_defaults(ntb: Ntb, given: Mapping[str, object]) -> Ntb:
    """The profile's defaults, without those of windows that the configuration has fewer of."""
    count = given.get("num_mws", ntb.num_mws)
    least = min(max(count, 1), MAX_MWS) if isinstance(count, int) else ntb.num_mws
    dropped: dict[str, Any] = {}
    for number in range(least + 1, MAX_MWS + 1):
        dropped |= {f"mw{number}": 0, f"mw{number}_offset": 0, f"mw{number}_bar": -1}
    return dataclasses.replace(ntb, **dropped)


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
        lines.append(f"{name} = {_written(key.rule, value)}")
    return "\n".join(lines) + "\n"


def _written(rule: Rule, value: object) -> str:
    if isinstance(rule, Integer):
        return rule.written(cast("int", value))
    return rule.written(str(value)) if isinstance(rule, Switch) else json.dumps(value)


def warnings(config: Config) -> list[str]:
    """What is allowed but will not work well, one line each; [] when all is well."""
    ntb, transport = config.ntb, config.transport
    plan = Plan(config.bars, config.windows, config.db_region, config.bar_sizes)
    dram_bytes = min(config.node.rc.dram_bytes, config.node.ep.dram_bytes)
    return [
        *deprecated_keys(transport),
        *_dma_warnings(transport),
        *kernel_surprises(ntb),
        *traffic_warnings(ntb, transport, config.netdev, config.profile, plan, dram_bytes),
    ]


def offload_bytes(config: Config) -> int:
    """Longest packet of several segments that crosses, bytes; 0 without offloads."""
    plan = Plan(config.bars, config.windows, config.db_region, config.bar_sizes)
    if not config.netdev.offloads:
        return 0
    return longest_packet(config.ntb, config.transport, config.netdev, config.profile, plan)


def deprecated_keys(transport: Transport) -> list[str]:
    """Keys that were given by an old name, one line each."""
    if transport.use_msi == "auto":
        return []
    return [f"transport.use_msi = {transport.use_msi}: deprecated, the key is transport.use_intr"]


def _dma_warnings(transport: Transport) -> list[str]:
    if transport.use_dma and not transport.dw_edma:
        return ["transport.use_dma = true: the CPU copies all the same, transport.dw_edma is false"]
    return []


def shared_identity(config: Config) -> dict[str, int | str]:
    """What both ends of a bridge must have equal, by key: two that differ in it are no bridge."""
    ntb, transport, netdev, bars = config.ntb, config.transport, config.netdev, config.bars
    identity: dict[str, int | str] = {
        "profile": config.profile.name,
        "ctrl_layout": ntb.ctrl_layout,
        "inbound": ntb.inbound,
        "num_mws": ntb.num_mws,
        "mw2_target": ntb.mw2_target,
        "ctrl_bar": bars.ctrl,
        "db_bar": bars.db,
        "spad_count": ntb.spad_count,
        "db_count": ntb.db_count,
        "transport_mtu": transport.transport_mtu,
        "max_num_clients": transport.max_num_clients,
        "max_mw_size": transport.max_mw_size,
        "mtu": netdev.mtu,
        "queues": netdev.queues,
        "offloads": int(netdev.offloads),
        "rx_polling": int(netdev.poll != "never"),
    }
    for window in config.windows:
        span = {"": window.size, "_offset": window.offset, "_bar": window.bar}
        identity |= {f"{window.name}{suffix}": value for suffix, value in span.items()}
    return identity


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


def _check_machine(sections: Sections, source: str) -> None:
    """What a node alone needs to reach the other one."""
    machine = sections.machine
    if machine.node == "both":
        return
    why = f'with machine.node = "{machine.node}"'
    if sections.bridge.fabric != "message":
        raise ConfigError(
            f'{source}: bridge.fabric = "{sections.bridge.fabric}": must be "message" {why}: two machines '
            f"share no memory"
        )
    listen = _ip(machine.listen)
    if listen is None or listen.is_multicast:
        allowed = "an IPv4 or IPv6 address of this machine (0.0.0.0 or :: is every one)"
        raise ConfigError(f'{source}: machine.listen = "{machine.listen}": must be {allowed} {why}')
    peer = _ip(machine.peer)
    is_name = peer is None and machine.peer and not re.fullmatch(r"[0-9.]+|.*:.*", machine.peer)
    if not is_name and (peer is None or peer.is_multicast or peer.is_unspecified):
        allowed = "the address or host name of the other machine"
        raise ConfigError(f'{source}: machine.peer = "{machine.peer}": must be {allowed} {why}')


def _ip(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


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
