"""A node as the machine sees it: a network namespace with a persistent TUN, addresses and routes.

The node outlives the processes in it.  A note in the run folder, written before anything is made,
says that a namespace is ours: a maker killed half way is cleaned up after, and a namespace of
somebody else's is never touched.

IPv6 speaks only when spoken to: no link-local address, no router solicitation, no duplicate
address detection, so the first packet across a bridge is the user's.

pyroute2 is slow to import, and so is asyncio: only what makes or removes a node does it, not a command that
runs in one.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import signal
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from ntbnet.config import Config
from ntbnet.edge.netns import (
    enter,
    inside,
    missing_capabilities,
    netns_inode,
    netns_path,
    processes_inside,
)
from ntbnet.edge.process import end, record_of
from ntbnet.edge.rundir import RunDir, check_name
from ntbnet.edge.tun import check_tun_device, create_persistent, has_interface
from ntbnet.errors import ConfigError, SetupError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

NODES = ("rc", "ep")
MTU_MIN = 1280
"""Least MTU of a link that carries IPv6 (RFC 8200, section 5)."""
MTU_MAX = 65510
"""Largest packet whose Ethernet frame fits a transport frame, as the RFC series measured."""

_IFA_F_NODAD = 0x02
_INTERFACE = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,14}")
_QUIET = {"addr_gen_mode": "1", "accept_ra": "0", "router_solicitations": "0", "accept_dad": "0"}
"""IPv6 settings of every interface made in a node; mode 1 gives no link-local address."""
_PATIENCE_S = 1.0
"""Time for programs in a removed node to end by themselves."""


@dataclass(frozen=True, slots=True)
class NodeSpec:
    """What a node is to be.

    Raises:
        ConfigError: a field is out of range; names it.
    """

    bridge: str
    """1..15 of a-z, 0-9 and ``-``."""
    node: str
    """``rc`` or ``ep``."""
    tun: str = "ntb0"
    """Interface name, 1..15 characters."""
    mtu: int = MTU_MAX
    """Bytes, 1280..65510."""
    ipv4: str | None = None
    """Address with prefix length (``10.77.0.1/30``); the prefix is routed to the TUN."""
    ipv6: str | None = None
    """Address with prefix length (``fd77::1/64``); the prefix is routed to the TUN."""

    def __post_init__(self) -> None:
        check_name("bridge name", self.bridge)
        if self.node not in NODES:
            raise ConfigError(f"node {self.node!r}: allowed are rc and ep")
        if not _INTERFACE.fullmatch(self.tun):
            raise ConfigError(f"tun {self.tun!r}: allowed are 1..15 letters, digits and _.-")
        if not MTU_MIN <= self.mtu <= MTU_MAX:
            raise ConfigError(f"mtu {self.mtu}: allowed are {MTU_MIN}..{MTU_MAX}")
        _check_address("ipv4", self.ipv4, ipaddress.IPv4Interface)
        _check_address("ipv6", self.ipv6, ipaddress.IPv6Interface)

    @property
    def netns(self) -> str:
        """Name of the network namespace."""
        return f"{self.bridge}-{self.node}"


def create_node(spec: NodeSpec, run: RunDir) -> bool:
    """Make the node, carrier off; a complete one of ours with the same spec is kept.

    When only the TUN is missing, the namespace and what runs in it stay.  Any number of processes may
    call this at once.  On failure nothing is left behind.

    Args:
        spec: what to make.
        run: run folder of the bridge; made when absent.

    Returns:
        True when it was made, False when it was there.

    Raises:
        SetupError: a permission or /dev/net/tun is missing (says how to get it), or the namespace or
            the interface name is taken.
    """
    run.create()
    with run.lock_nodes():
        note = run.read_node(spec.node)
        inode = netns_inode(spec.netns)
        if _is_complete(note, spec, inode):
            return False
        _check_rights()
        check_tun_device()
        _check_ours(note, spec, inode)
        is_ours = _is_ours(note, spec, inode)
        run.write_node(spec.node, {"spec": asdict(spec), "inode": None})
        try:
            if not is_ours:
                _remove_netns(spec)
                _make_netns(spec)
            create_persistent(spec.netns, spec.tun)
            _configure(spec)
        except BaseException:
            _remove_netns(spec)
            run.forget_node(spec.node)
            raise
        run.write_node(spec.node, {"spec": asdict(spec), "inode": netns_inode(spec.netns)})
    return True


def remove_node(spec: NodeSpec, run: RunDir) -> bool:
    """Remove the node: programs, TUN, namespace and note.  Idempotent; never touches what is not ours.

    Programs that run in the namespace are ended: the kernel would keep it, nameless, for as long as
    they run.

    Returns:
        True when there was something of ours to remove.

    Raises:
        SetupError: a permission is missing.
    """
    if not run.exists():
        return False
    with run.lock_nodes():
        note = run.read_node(spec.node)
        if note is None:
            return False
        inode = netns_inode(spec.netns)
        if inode is None or note.get("inode") in (None, inode):
            _check_rights()
            _end_programs(spec)
            _remove_netns(spec)
        run.forget_node(spec.node)
    return True


def node_exists(spec: NodeSpec) -> bool:
    """True when the namespace and the TUN in it are there, whoever made them.

    Raises:
        SetupError: the namespace may not be entered.
    """
    if netns_inode(spec.netns) is None:
        return False
    with inside(spec.netns):
        return has_interface(spec.tun)


def exec_in_node(spec: NodeSpec, argv: Sequence[str]) -> NoReturn:
    """Become a program inside the node; returns only by raising.

    Args:
        spec: the node; only its namespace matters.
        argv: program (looked up in PATH) and its arguments.

    Raises:
        SetupError: no such node, no permission, or the program cannot be run.
        ValueError: ``argv`` is empty.
    """
    if not argv:
        raise ValueError("no program to run")
    enter(spec.netns)
    sys.stdout.flush()
    sys.stderr.flush()
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores both; programs expect the default
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execvp(argv[0], list(argv))  # noqa: S606 - the program is the user's own choice
    except OSError as error:
        raise SetupError(f"cannot run {argv[0]} in {spec.netns}: {error.strerror}") from None


def _check_address(key: str, value: str | None, parse: Any) -> None:
    if value is None:
        return
    try:
        if "/" not in value:
            raise ValueError("prefix length missing")
        parse(value)
    except ValueError as error:
        raise ConfigError(f"{key} {value!r}: {error}; an address with prefix length is expected") from None


def _check_rights() -> None:
    missing = missing_capabilities()
    if missing:
        raise SetupError(f"making network namespaces needs {' and '.join(missing)}; run as root (sudo)")


def _is_complete(note: Any, spec: NodeSpec, inode: int | None) -> bool:
    return _is_ours(note, spec, inode) and node_exists(spec)


def _is_ours(note: Any, spec: NodeSpec, inode: int | None) -> bool:
    """True for the very namespace that we made for that spec."""
    return bool(note) and inode is not None and (note.get("inode"), note.get("spec")) == (inode, asdict(spec))


def _check_ours(note: Any, spec: NodeSpec, inode: int | None) -> None:
    how = f"remove it (ip netns del {spec.netns}) or choose another bridge name"
    if note is None and os.path.lexists(netns_path(spec.netns)):
        raise SetupError(f"network namespace {spec.netns} exists and is not ours; {how}")
    if note is not None and inode is not None and note.get("inode") not in (None, inode):
        raise SetupError(f"network namespace {spec.netns} was replaced by somebody; {how}")


def _make_netns(spec: NodeSpec) -> None:
    from pyroute2 import netns

    try:
        netns.create(spec.netns)
    except OSError as error:
        reason = f"{error.strerror or error}; run as root, in a container with --privileged"
        raise SetupError(f"cannot make network namespace {spec.netns}: {reason}") from None
    if netns_inode(spec.netns) is None:
        reason = "the kernel did not mount it; run as root, in a container with --privileged"
        raise SetupError(f"cannot make network namespace {spec.netns}: {reason}")
    with inside(spec.netns):
        _quieten("default", spec)


def _quieten(interface: str, spec: NodeSpec) -> None:
    for key, value in _QUIET.items():
        try:
            Path(f"/proc/sys/net/ipv6/conf/{interface}/{key}").write_text(value)
        except FileNotFoundError:
            if spec.ipv6 is not None:
                raise SetupError("the kernel has no IPv6; leave ipv6 out of the configuration") from None
        except OSError as error:
            raise SetupError(f"cannot set IPv6 {key} in {spec.netns}: {error.strerror}") from None


def _configure(spec: NodeSpec) -> None:
    from pyroute2 import NetlinkError

    def configure(route: Any) -> None:
        route.link("set", index=1, state="up")
        index = route.link_lookup(ifname=spec.tun)[0]
        route.link("set", index=index, mtu=spec.mtu, state="up")
        if spec.ipv4 is not None:
            four = ipaddress.IPv4Interface(spec.ipv4)
            route.addr("add", index=index, address=str(four.ip), prefixlen=four.network.prefixlen)
        if spec.ipv6 is not None:
            six = ipaddress.IPv6Interface(spec.ipv6)
            prefix = six.network.prefixlen
            route.addr("add", index=index, address=str(six.ip), prefixlen=prefix, flags=_IFA_F_NODAD)

    try:
        _with_netlink(spec, configure)
    except (NetlinkError, OSError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise SetupError(f"cannot configure {spec.tun} in {spec.netns}: {reason}") from None


def _remove_netns(spec: NodeSpec) -> None:
    """Remove the TUN and the namespace, or what a killed maker left of them."""
    from pyroute2 import NetlinkError, netns

    def delete_tun(route: Any) -> None:
        for index in route.link_lookup(ifname=spec.tun):
            route.link("del", index=index)

    if netns_inode(spec.netns) is not None:
        # An interface that cannot be deleted (lo, say) goes with its namespace.
        with contextlib.suppress(NetlinkError, OSError):
            _with_netlink(spec, delete_tun)
    try:
        netns.remove(spec.netns)
    except FileNotFoundError:
        return
    except OSError as error:
        raise SetupError(f"cannot remove network namespace {spec.netns}: {error.strerror}") from None


def _end_programs(spec: NodeSpec) -> None:
    found = (record_of(pid) for pid in processes_inside(spec.netns) if pid != os.getpid())
    end((record for record in found if record is not None), _PATIENCE_S)


def _with_netlink(spec: NodeSpec, work: Callable[[Any], None]) -> None:
    """Do ``work`` with a netlink socket inside the node.

    pyroute2 drives an asyncio loop of its own, which neither runs inside another one nor on uvloop
    (it has no netlink sockets): hence the thread and the plain loop.  The thread enters the node
    itself, which spares the process pyroute2 would fork for that.
    """
    import asyncio
    from concurrent.futures import ThreadPoolExecutor

    from pyroute2 import IPRoute

    def run() -> None:
        loop = asyncio.SelectorEventLoop()
        try:
            with inside(spec.netns), IPRoute(use_event_loop=loop) as route:
                work(route)
        finally:
            loop.run_until_complete(asyncio.sleep(0))  # lets the aborted transport close its socket
            loop.close()

    with ThreadPoolExecutor(1, thread_name_prefix="netlink") as executor:
        executor.submit(run).result()


def spec_from(config: Config, bridge: str, node: str) -> NodeSpec:
    """What the configuration says about a node."""
    side = config.node.rc if node == "rc" else config.node.ep
    return NodeSpec(bridge, node, config.netdev.tun, config.netdev.mtu, side.ipv4, side.ipv6)
