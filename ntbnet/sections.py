"""The configuration's sections: every key, its rule and its default, here and nowhere else.

Rules that join keys (addresses in one subnet, an MTU that fits a frame) are in ``config.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from ntbnet.schema import Boolean, Choice, Integer, Switch, Text

MIB = 1 << 20

FRAME_HEADER_BYTES = 12
"""ntb_transport's frame header. Source: Linux ntb_transport.c, struct ntb_payload_header."""

ETHERNET_HEADER_BYTES = 14

MIN_MTU = 1280
"""Bytes; the least IPv6 allows on a link. Source: RFC 8200, section 5."""

MAX_TRANSPORT_MTU = 65536
"""Bytes; the kernel's own default. A TUN packet is at most 65535 bytes, so more carries nothing."""

HEADERS_BYTES = FRAME_HEADER_BYTES + ETHERNET_HEADER_BYTES

_LINE = r"[^\x00-\x1f\x7f]{1,255}"
_ADDRESS = r"[0-9A-Fa-f:.]{2,39}/[0-9]{1,3}"
_HOST = r"|[0-9A-Za-z](?:[0-9A-Za-z.:_-]{0,251}[0-9A-Za-z:.])?|::[0-9A-Fa-f:.]{0,37}"
_OCTET = r"(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_LOOPBACK = rf"127(?:\.{_OCTET}){{3}}|::1"
_PATH = r"/(?!(?:.*/)?\.\.(?:/|$))[A-Za-z0-9._/+-]{1,%d}"


@dataclass(frozen=True, slots=True)
class Bridge:
    """Section [bridge]: what is emulated and how its parts are joined."""

    profile: Annotated[str, Text(_LINE, "a profile's name, or the path of a .toml file")] = "r-car-s4"
    """Platform: the name of a shipped profile, or a path (it has a '/' or ends in .toml)."""

    fabric: Annotated[str, Choice(("local", "message"))] = "local"
    """How a store reaches its target; local: in place, in shared memory of this machine; message: as a
    message between processes, every one."""

    transport: Annotated[str, Choice(("ipc", "tcp"))] = "ipc"
    """What carries the messages: ipc (sockets in the run folder) or tcp (127.0.0.1 only)."""

    tcp_base_port: Annotated[int, Integer(1024, 65000)] = 7400
    """First TCP port, 1024..65000; used with transport = tcp only."""


@dataclass(frozen=True, slots=True)
class Machine:
    """Section [machine]: which nodes run on this machine, and where the other one is."""

    node: Annotated[str, Choice(("both", "rc", "ep"))] = "both"
    """Nodes that run here: both, or rc or ep alone; the other one is on another machine then (needs
    fabric = message, listen, peer and keys). `ntbnet up --node` replaces it."""

    listen: Annotated[str, Text(_HOST, "an IPv4 or IPv6 address of this machine, or empty")] = ""
    """Address of this machine that the other one connects to, IPv4 or IPv6; 0.0.0.0 or :: is every one."""

    peer: Annotated[str, Text(_HOST, "an IPv4 or IPv6 address, a host name, or empty")] = ""
    """The other machine: its IPv4 or IPv6 address or its host name."""

    base_port: Annotated[int, Integer(1024, 65000)] = 7500
    """First of the four TCP ports between the machines, 1024..65000; the same on both."""

    keys: Annotated[str, Text(_PATH % 200, 'an absolute path without ".."')] = "/etc/ntbnet/keys"
    """Folder of this machine's key and of those it allows, an absolute path; see `ntbnet keys`."""

    peer_key: Annotated[str, Text(r"|[a-z0-9][a-z0-9_-]{0,31}", "a name as given to ntbnet keys allow")] = ""
    """Name under which the other machine's key is allowed; empty: the only one that is."""


@dataclass(frozen=True, slots=True)
class Node:
    """Sections [node.rc] and [node.ep]: one host."""

    ipv4: Annotated[str, Text(_ADDRESS, "an IPv4 address with prefix, such as 10.77.0.1/24")]
    """Address and prefix length (8..30) of the TUN device."""

    ipv6: Annotated[str, Text(_ADDRESS, "an IPv6 address with prefix, such as fd77::1/64")]
    """Address and prefix length (16..126) of the TUN device."""

    dram_bytes: Annotated[int, Integer(8 * MIB, 1024 * MIB, "bytes", multiple_of=MIB)] = 32 * MIB
    """Memory of the host, bytes, 8388608..1073741824 (8 MiB..1 GiB), a multiple of 1 MiB."""

    dram_on_reset: Annotated[str, Choice(("kept", "lost"))] = "kept"
    """What `ntbnet reset` does to that memory; kept, or lost: zeros for everybody who maps it."""


@dataclass(frozen=True, slots=True)
class Nodes:
    """The two hosts."""

    rc: Node = Node("10.77.0.1/24", "fd77::1/64")
    ep: Node = Node("10.77.0.2/24", "fd77::2/64")


@dataclass(frozen=True, slots=True)
class Netdev:
    """Section [netdev]: the network device of each node."""

    tun: Annotated[
        str,
        Text(
            r"(?!(?:lo|all|default)$)[A-Za-z][A-Za-z0-9_.-]{0,14}",
            "an interface name: a letter, then letters, digits, _ . -, at most 15 characters, "
            "and not lo, all or default",
        ),
    ] = "ntb0"
    """Name of the TUN device inside each node, 1..15 characters."""

    mtu: Annotated[int, Integer(MIN_MTU, MAX_TRANSPORT_MTU - HEADERS_BYTES, "bytes")] = 65510
    """Largest IP packet, bytes, 1280..65510; a frame less its 12-byte header and 14-byte Ethernet header."""

    tx_stop: Annotated[int, Integer(1, 64, "ring entries")] = 5
    """Free ring entries below which sending stops, 1..64; 5 is the kernel's, 1 fills the ring."""

    poll: Annotated[str, Choice(("adaptive", "never", "always"))] = "adaptive"
    """How a full ring is watched for room; never: on kernel ticks, as ntb_netdev does; adaptive: every 50 us
    while there is progress, then ever more seldom, down to kernel ticks; always: every 50 us. In fabric
    local also whether received frames are looked for every 100 us instead of being rung for; adaptive: under
    load; always: from the first one on, idle or not; both ends need ntbnet unless it is never."""

    queues: Annotated[int, Integer(1, 32, "queues")] = 1
    """Transport queues that the device uses, 1..32; a flow of packets stays on one of them."""

    offloads: Annotated[bool, Boolean()] = True
    """Packets of several segments cross as one, checksums are left out on the way, true or false: needs
    ntbnet at both ends; false sends Ethernet frames as the kernel does."""


MAX_MWS = 4
"""Memory windows a control block can describe."""

MAX_WINDOW_BYTES = 1024 * MIB
"""Largest memory window of any platform."""

_WINDOW_BYTES = Integer(0, MAX_WINDOW_BYTES, "bytes", multiple_of=4, hexadecimal=True)
_WINDOW_OFFSET = Integer(0, 0xFFFFFFFF, "bytes", hexadecimal=True)


@dataclass(frozen=True, slots=True)
class Ntb:
    """Section [ntb]: what configfs sets on the endpoint function.

    A profile may set its own defaults of these keys; those below are for profiles that do not.

    Source: Linux pci-epf-vntb.c, its configfs attributes.
    """

    ctrl_layout: Annotated[str, Choice(("rfc1", "classic"))] = "rfc1"
    """Layout of the control block, rfc1 or classic; both hosts use the same one."""

    passthrough: Annotated[bool, Boolean()] = False
    """Forward what hits a BAR and no inbound window with its bus address as local address, true or false;
    false refuses it (UR)."""

    inbound: Annotated[str, Choice(("map", "submap", "bar"))] = "bar"
    """How windows are programmed, map, submap or bar: address match at an offset, all parts of a BAR at
    once, or one window for a whole BAR."""

    num_mws: Annotated[int, Integer(1, MAX_MWS, "windows")] = 1
    """Number of memory windows, 1..4."""

    mw1: Annotated[int, _WINDOW_BYTES] = 0xF0000
    """Size of memory window 1, bytes, 0..0x40000000, a multiple of 4; the profile may allow less."""

    mw2: Annotated[int, _WINDOW_BYTES] = 0
    """Size of memory window 2, bytes, 0..0x40000000, a multiple of 4; 0 unless num_mws is 2 or more."""

    mw3: Annotated[int, _WINDOW_BYTES] = 0
    """Size of memory window 3, bytes, 0..0x40000000, a multiple of 4; 0 unless num_mws is 3 or more."""

    mw4: Annotated[int, _WINDOW_BYTES] = 0
    """Size of memory window 4, bytes, 0..0x40000000, a multiple of 4; 0 unless num_mws is 4."""

    mw1_offset: Annotated[int, _WINDOW_OFFSET] = 0
    """Where memory window 1 begins in its BAR, bytes, 0..0xffffffff."""

    mw2_offset: Annotated[int, _WINDOW_OFFSET] = 0
    """Where memory window 2 begins in its BAR, bytes, 0..0xffffffff."""

    mw3_offset: Annotated[int, _WINDOW_OFFSET] = 0
    """Where memory window 3 begins in its BAR, bytes, 0..0xffffffff."""

    mw4_offset: Annotated[int, _WINDOW_OFFSET] = 0
    """Where memory window 4 begins in its BAR, bytes, 0..0xffffffff."""

    mw1_bar: Annotated[int, Integer(-1, 5)] = -1
    """BAR of memory window 1, -1..5; -1 takes the next free one."""

    mw2_bar: Annotated[int, Integer(-1, 5)] = -1
    """BAR of memory window 2, -1..5; -1 takes the next free one."""

    mw3_bar: Annotated[int, Integer(-1, 5)] = -1
    """BAR of memory window 3, -1..5; -1 takes the next free one."""

    mw4_bar: Annotated[int, Integer(-1, 5)] = -1
    """BAR of memory window 4, -1..5; -1 takes the next free one."""

    mw2_target: Annotated[str, Choice(("none", "edma", "msi"))] = "none"
    """What memory window 2 is for: none (data like the others), edma or msi (interrupts to the endpoint)."""

    ctrl_bar: Annotated[int, Integer(-1, 5)] = -1
    """BAR of control block and scratchpads, -1..5; -1 takes the next free one."""

    db_bar: Annotated[int, Integer(-1, 5)] = -1
    """BAR of the doorbells, -1..5; -1 takes the next free one, that of ctrl_bar puts them behind the
    scratchpads."""

    spad_count: Annotated[int, Integer(6, 1024, "32-bit words")] = 128
    """Scratchpads of each side, 32-bit words, 6..1024; the transport needs 6."""

    db_count: Annotated[int, Integer(4, 32, "doorbells")] = 16
    """Doorbell slots, 4..32; slots 0 and 1 carry no doorbell, and the transport needs two."""

    vbus_number: Annotated[int, Integer(0, 0xFF, hexadecimal=True)] = 0x10
    """Number of the virtual PCI bus on the endpoint, 0..0xff."""

    vendor_id: Annotated[int, Integer(1, 0xFFFE, hexadecimal=True)] = 0x1912
    """Vendor id that the host enumerates, 1..0xfffe (0 and 0xffff mean no device)."""

    device_id: Annotated[int, Integer(0, 0xFFFF, hexadecimal=True)] = 0x0030
    """Device id that the host enumerates, 0..0xffff."""

    vntb_vid: Annotated[int, Integer(0, 0xFFFE, hexadecimal=True)] = 0x1912
    """Vendor id on the endpoint's virtual bus, 0..0xfffe."""

    vntb_pid: Annotated[int, Integer(0, 0xFFFF, hexadecimal=True)] = 0x0030
    """Device id on the endpoint's virtual bus, 0..0xffff."""


@dataclass(frozen=True, slots=True)
class Transport:
    """Section [transport]: ntb_transport's module parameters, equal on both sides.

    Source: Linux ntb_transport.c, its module parameters.
    """

    transport_mtu: Annotated[int, Integer(MIN_MTU + HEADERS_BYTES, MAX_TRANSPORT_MTU, "bytes")] = 65536
    """Largest frame with all headers, bytes, 1306..65536: what the least MTU needs, the kernel's default."""

    max_num_clients: Annotated[int, Integer(0, 32, "queues")] = 0
    """Number of queues, 0..32; 0 lets the transport choose. The network device uses netdev.queues of them."""

    max_mw_size: Annotated[int, Integer(0, 1024 * MIB, "bytes", multiple_of=4096, hexadecimal=True)] = 0
    """Most of a memory window that is used, bytes, 0..0x40000000, a multiple of 0x1000; 0 is no limit."""

    use_intr: Annotated[str, Switch(("auto",))] = "auto"
    """Interrupts instead of doorbells, auto, true or false: auto takes the first of MSI and eDMA that the
    platform has, true also warns when it has none, false takes doorbells."""

    use_msi: Annotated[str, Switch(("auto",))] = "auto"
    """Deprecated name of use_intr, auto, true or false; auto is as if it were not given."""

    dw_edma: Annotated[bool, Boolean()] = True
    """Driver of the endpoint's eDMA engine, true or false: the kernel's option CONFIG_DW_EDMA."""

    use_dma: Annotated[bool, Boolean()] = False
    """Let a DMA engine copy payloads where the sender has one, true or false: the endpoint has its eDMA."""

    copy_bytes: Annotated[int, Integer(1, MAX_TRANSPORT_MTU, "bytes")] = 1024
    """Shorter payloads are copied by the CPU even with use_dma, bytes, 1..65536."""

    @property
    def interrupts(self) -> str:
        """auto, true or false, by whichever name it was given."""
        return self.use_msi if self.use_intr == "auto" else self.use_intr


@dataclass(frozen=True, slots=True)
class Timing:
    """Section [timing]: how long anybody waits."""

    completion_timeout_ms: Annotated[int, Integer(20, 10000, "ms")] = 500
    """How long a read across the link waits for its completion, ms, 20..10000."""

    command_timeout_ms: Annotated[int, Integer(100, 60000, "ms")] = 1000
    """How long the host waits for a command's status, ms, 100..60000; 1000 is what the driver does."""

    heartbeat_ms: Annotated[int, Integer(20, 1000, "ms")] = 300
    """Time between two signs of life of a process, ms, 20..1000."""

    liveness_ms: Annotated[int, Integer(60, 10000, "ms")] = 1000
    """Silence after which a process counts as gone, ms, 60..10000, at least three heartbeats."""


@dataclass(frozen=True, slots=True)
class Supervisor:
    """Section [supervisor]: how processes are restarted and stopped."""

    restart_backoff_ms: Annotated[int, Integer(0, 10000, "ms")] = 50
    """Wait before the second restart in a row, ms, 0..10000; it doubles each time."""

    restart_backoff_max_ms: Annotated[int, Integer(0, 60000, "ms")] = 2000
    """Longest wait before a restart, ms, 0..60000, not below restart_backoff_ms."""

    stop_timeout_ms: Annotated[int, Integer(100, 60000, "ms")] = 5000
    """Time between SIGTERM and SIGKILL, ms, 100..60000."""


@dataclass(frozen=True, slots=True)
class Log:
    """Section [log]: JSON lines, one file for each process."""

    level: Annotated[str, Choice(("debug", "info", "warning", "error"))] = "info"
    """Least level that is written: debug, info, warning or error."""

    dir: Annotated[str, Text(rf"|{_PATH % 200}", 'an absolute path without "..", or empty')] = ""
    """Folder of the logs, an absolute path; empty is inside the run folder, which `ntbnet down` removes."""

    file_bytes: Annotated[int, Integer(1 << 16, 1 << 40, "bytes")] = 4 * MIB
    """Size from which a log is set aside and a new one begun, bytes, 65536..1099511627776 (64 KiB..1 TiB)."""

    files: Annotated[int, Integer(1, 100, "files")] = 4
    """How many files there may be of each service's log, 1..100, the one being written included."""


@dataclass(frozen=True, slots=True)
class Metrics:
    """Section [metrics]: the supervisor's OpenMetrics endpoint; needs the extra ``metrics``."""

    port: Annotated[int, Integer(0, 65535)] = 0
    """TCP port that the supervisor serves metrics at, 0..65535; 0 is none. /metrics is the path."""

    address: Annotated[str, Text(_LOOPBACK, "a loopback address: 127.0.0.0/8 or ::1")] = "127.0.0.1"
    """Address of that port, of this machine's loopback only: 127.0.0.0/8 or ::1."""


@dataclass(frozen=True, slots=True)
class Trace:
    """Section [trace]: the flight recorder of each service."""

    records: Annotated[int, Integer(0, 1 << 20, "records of 128 bytes")] = 4096
    """Length of the ring of each service's flight recorder, records of 128 bytes, 0..1048576; 0: nothing is
    recorded."""


@dataclass(frozen=True, slots=True)
class Run:
    """Section [run]: where a running bridge keeps its state."""

    dir: Annotated[
        str, Text(rf"|{_PATH % 63}", 'an absolute path of at most 64 characters without "..", or empty')
    ] = ""
    """Folder of the run folders, an absolute path of at most 64 characters (a socket's has at most 107);
    empty: /run/ntbnet, or /dev/shm/ntbnet where /run is on a disk, which a restart might wait for, and
    /dev/shm has 256 MiB or more."""

    user: Annotated[str, Text(r"|[a-z_][a-z0-9_-]{0,31}", "the name of a user of this machine, or empty")] = (
        ""
    )
    """User that services become once their node and memory are open, when `ntbnet up` is run by root; empty:
    they stay who they are."""

    idle_cores: Annotated[str, Choice(("auto", "halt", "poll"))] = "auto"
    """What idle cores of the machine do; poll: they wait awake while the bridge is up (the kernel's
    /dev/cpu_dma_latency at 0), so that a message wakes its receiver sooner, and save no power; auto: so while
    a node sends packets, where the machine allows it; halt: as they would without the bridge."""
