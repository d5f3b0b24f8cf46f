"""The TUN interface of a node: made persistent once, then attached to by whoever drives it.

A persistent TUN outlives the process that made it, with its addresses and routes; one handle may
be attached at a time.  The kernel switches the carrier off when the handle closes, so a killed
peer shows as a cable pulled.  Packets are plain IP, without the packet-information header; with offloads
each has a 10-byte ``struct virtio_net_hdr`` in front.

Whether a TUN has offloads is decided anew at each attach, whoever made it: the kernel takes the header's
flag then, and keeps size and features of the last owner, so they are set every time.

Source: Linux drivers/net/tun.c (tun_set_iff, set_offload, tun_get_user, tun_net_change_carrier,
__tun_detach) and include/uapi/linux/if_tun.h; net/core/link_watch.c and net/ethtool/ioctl.c
(ethtool_op_get_link); net/core/rtnetlink.c (do_setlink, IFLA_GSO_MAX_SIZE).
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import socket
import struct
from pathlib import Path

from ntbnet.devices.framing import VNET_HEADER_BYTES
from ntbnet.edge.netns import inside, netns_inode
from ntbnet.errors import SetupError

TUN_DEVICE = Path("/dev/net/tun")
MAX_PACKET_BYTES = 65535
"""No IP packet without a jumbo option is longer."""
_GSO_LIMIT_MAX = 65536
"""Largest gso_max_size that IPv4 takes."""

_TUNSETIFF = 0x4004_54CA
_TUNSETPERSIST = 0x4004_54CB
_TUNGETIFF = 0x8004_54D2
_TUNSETOFFLOAD = 0x4004_54D0
_TUNSETVNETHDRSZ = 0x4004_54D8
_TUNSETCARRIER = 0x4004_54E2
_TUNGETDEVNETNS = 0x54E3
_IFF_TUN = 0x0001
_IFF_NO_CARRIER = 0x0040
"""Attach without switching the carrier on (Linux 6.2 and later; older kernels ignore the bit)."""
_IFF_PERSIST = 0x0800
_IFF_NO_PI = 0x1000
_IFF_VNET_HDR = 0x4000
_TUN_F_TCP = 0x01 | 0x02 | 0x04 | 0x08
"""Checksums, segments of TCP over IPv4 and IPv6, ECN."""
_TUN_F_UDP = 0x20 | 0x40
"""Segments of UDP over IPv4 and IPv6; the kernel wants both or none (Linux 6.2 and later)."""
_IFF_PLAIN = _IFF_TUN | _IFF_NO_PI | _IFF_NO_CARRIER
_IFREQ = struct.Struct("16sH22x")
_IFINFOMSG = struct.Struct("=BxHiII")
_NLMSGHDR = struct.Struct("=IHHII")
_ATTRIBUTE_U32 = struct.Struct("=HHI")
_NLMSGERR = struct.Struct("=16xi")
_RTM_SETLINK = 19
_NLM_F_REQUEST_ACK = 0x01 | 0x04
_IFLA_GSO_MAX_SIZE = 41
_SIOCETHTOOL = 0x8946
_ETHTOOL_GLINK = 0x0A
_SYS_PIDFD_GETFD = 438
_REFUSED = frozenset(
    {errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM, errno.EIO, errno.EINVAL, errno.EMSGSIZE, errno.ENETDOWN}
)
"""Answers to a write that mean "this packet is dropped", not "this interface is gone"."""


def check_tun_device() -> None:
    """Find out whether TUN interfaces can be had at all.

    Raises:
        SetupError: the device node is missing or may not be opened; says how to get it.
    """
    os.close(_open_device())


def create_persistent(netns: str, name: str) -> None:
    """Make a persistent TUN with its carrier off.

    Raises:
        SetupError: the name is taken in that namespace, or the kernel refuses.
    """
    with inside(netns):
        if has_interface(name):
            raise SetupError(
                f"interface name {name} is taken in network namespace {netns}; choose another name"
            )
        fd = _open_device()
        try:
            _attach(fd, netns, name, _IFF_PLAIN)
            fcntl.ioctl(fd, _TUNSETPERSIST, 1)
            fcntl.ioctl(fd, _TUNSETCARRIER, struct.pack("i", 0))
        except OSError as error:
            raise SetupError(f"cannot make TUN {name} in {netns}: {error.strerror}") from None
        finally:
            os.close(fd)


class Tun:
    """A handle on a persistent TUN; never blocks.

    The carrier is off after attaching.  Closing the handle leaves the interface, its carrier off.

    Args:
        netns: name of the network namespace the interface lives in; the caller stays where it is.
        name: interface name.
        offload_bytes: longest IP packet of several segments that the node may hand over, bytes; 0 for
            no offloads.

    Raises:
        SetupError: no TUN device node, no permission, no such namespace or interface, the interface
            is not a persistent TUN, or another process is attached (named in the message).
    """

    def __init__(self, netns: str, name: str = "ntb0", offload_bytes: int = 0) -> None:
        self.name = name
        self.netns = netns
        self._fd = -1
        with inside(netns):
            if not has_interface(name):
                raise SetupError(f"no TUN {name} in network namespace {netns}; start the bridge again")
            fd = _open_device()
            try:
                _attach(fd, netns, name, _IFF_PLAIN | (_IFF_VNET_HDR if offload_bytes else 0))
                flags = _IFREQ.unpack(fcntl.ioctl(fd, _TUNGETIFF, bytes(_IFREQ.size)))[1]
                if not flags & _IFF_PERSIST:
                    raise SetupError(f"TUN {name} in {netns} is not persistent; start the bridge again")
                _set_offloads(fd, name, offload_bytes)
                os.set_blocking(fd, False)
                self._control = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            except OSError as error:
                os.close(fd)
                raise SetupError(f"cannot attach to TUN {name} in {netns}: {error.strerror}") from None
            except BaseException:
                os.close(fd)
                raise
        self._fd = fd
        try:
            self.set_carrier(up=False)
        except SetupError:
            self.close()
            raise

    def fileno(self) -> int:
        """The descriptor to watch for reading; -1 after ``close``."""
        return self._fd

    def read(self) -> bytes | None:
        """The next packet the node sends, whole, behind its offload header if any; None for none now.

        Raises:
            SetupError: the interface is gone.
        """
        buffer = memoryview(bytearray(VNET_HEADER_BYTES + MAX_PACKET_BYTES))
        return bytes(buffer[: self.readinto(buffer)]) or None

    def readinto(self, buffer: memoryview) -> int:
        """Read the next packet into ``buffer``, behind its offload header if any.

        Args:
            buffer: writable bytes, at least as long as the longest packet with its header: the kernel
                cuts a longer one without a word.

        Returns:
            Bytes read; 0 when there is no packet now.

        Raises:
            SetupError: the interface is gone.
        """
        try:
            return os.readv(self._fd, (buffer,))
        except BlockingIOError:
            return 0
        except OSError as error:
            raise self._gone(error) from None

    def write(self, packet: memoryview | bytes | bytearray, offload_header: bytes = b"") -> bool:
        """Hand one IP packet to the node; False when the kernel refuses it (full, down, or not IP).

        Args:
            packet: the packet.
            offload_header: its 10 bytes; none without offloads.

        Raises:
            SetupError: the interface is gone.
        """
        try:
            return os.writev(self._fd, (offload_header, packet)) > 0
        except OSError as error:
            if error.errno in _REFUSED:
                return False
            raise self._gone(error) from None

    def set_carrier(self, *, up: bool) -> None:
        """Plug the cable in or pull it; in force on return.

        The kernel acts on a carrier change later, on its own (up to a second after the last one), and
        drops what is sent until then.  Asking for the link state makes it act at once.

        Raises:
            SetupError: the interface is gone.
        """
        try:
            fcntl.ioctl(self._fd, _TUNSETCARRIER, struct.pack("i", up))
            question = ctypes.create_string_buffer(struct.pack("II", _ETHTOOL_GLINK, 0))
            request = struct.pack("16sP16x", self.name.encode(), ctypes.addressof(question))
            fcntl.ioctl(self._control, _SIOCETHTOOL, request)
        except OSError as error:
            raise self._gone(error) from None

    def close(self) -> None:
        """Let go of the interface; it stays, carrier off.  Closing twice is harmless."""
        if self._fd >= 0:
            os.close(self._fd)
            self._control.close()
            self._fd = -1

    def _gone(self, error: OSError) -> SetupError:
        return SetupError(f"TUN {self.name} in {self.netns} is gone: {error.strerror}")


def has_interface(name: str) -> bool:
    """True when the calling thread's namespace has an interface of that name, of whatever kind."""
    try:
        socket.if_nametoindex(name)
    except OSError:
        return False
    return True


def _open_device() -> int:
    try:
        return os.open(TUN_DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        how = f"modprobe tun, or: mkdir -p /dev/net && mknod {TUN_DEVICE} c 10 200"
        raise SetupError(f"{TUN_DEVICE} does not exist; {how}") from None
    except OSError as error:
        if error.errno in (errno.ENXIO, errno.ENODEV):
            raise SetupError(f"the kernel has no TUN driver behind {TUN_DEVICE}; modprobe tun") from None
        how = "run as root; in a container, pass the device in (--device /dev/net/tun)"
        raise SetupError(f"cannot open {TUN_DEVICE}: {error.strerror}; {how}") from None


def _attach(fd: int, netns: str, name: str, flags: int) -> None:
    try:
        fcntl.ioctl(fd, _TUNSETIFF, _IFREQ.pack(name.encode(), flags))
    except OSError as error:
        if error.errno == errno.EBUSY:
            reason = f"held by {_holder(netns, name)}; stop that process first"
        elif error.errno in (errno.EPERM, errno.EACCES):
            reason = "not permitted; run as root or give CAP_NET_ADMIN"
        elif error.errno == errno.EINVAL:
            reason = "an interface of that name is no plain TUN"
        else:
            reason = error.strerror or str(error)
        raise SetupError(f"cannot attach to TUN {name} in {netns}: {reason}") from None


def _set_offloads(fd: int, name: str, offload_bytes: int) -> None:
    """Switch the offloads of an attached TUN of this namespace on, or off; its carrier is still off.

    Raises:
        OSError: the kernel refuses.
    """
    if not offload_bytes:
        fcntl.ioctl(fd, _TUNSETOFFLOAD, 0)
        return
    fcntl.ioctl(fd, _TUNSETVNETHDRSZ, struct.pack("i", VNET_HEADER_BYTES))
    try:
        fcntl.ioctl(fd, _TUNSETOFFLOAD, _TUN_F_TCP | _TUN_F_UDP)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        fcntl.ioctl(fd, _TUNSETOFFLOAD, _TUN_F_TCP)
    # the kernel segments itself what is as long as the limit or longer
    _set_gso_limit(name, min(offload_bytes + 1, _GSO_LIMIT_MAX))


def _set_gso_limit(name: str, limit: int) -> None:
    """Set the interface's gso_max_size, bytes; netlink is the only way.

    Raises:
        OSError: the kernel refuses.
    """
    info = _IFINFOMSG.pack(socket.AF_UNSPEC, 0, socket.if_nametoindex(name), 0, 0)
    body = info + _ATTRIBUTE_U32.pack(_ATTRIBUTE_U32.size, _IFLA_GSO_MAX_SIZE, limit)
    header = _NLMSGHDR.pack(_NLMSGHDR.size + len(body), _RTM_SETLINK, _NLM_F_REQUEST_ACK, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as netlink:
        netlink.send(header + body)
        code = -_NLMSGERR.unpack_from(netlink.recv(4096))[0]
    if code:
        raise OSError(code, f"gso_max_size {limit}: {os.strerror(code)}")


def _holder(netns: str, name: str) -> str:
    """Who is attached: both nodes call their interface alike, so the handle's namespace decides."""
    inode = netns_inode(netns)
    for process in Path("/proc").glob("[0-9]*"):
        try:
            for handle in (process / "fd").iterdir():
                if handle.readlink() != TUN_DEVICE:
                    continue
                info = (process / "fdinfo" / handle.name).read_text()
                held = any(line.split() == ["iff:", name] for line in info.splitlines())
                if held and _handle_netns(int(process.name), int(handle.name)) == inode:
                    return f"process {process.name} ({(process / 'comm').read_text().strip()})"
        except OSError:
            continue
    return "another process"


def _handle_netns(pid: int, fd: int) -> int:
    """Inode of the namespace of the interface behind another process's TUN handle."""
    pidfd = os.pidfd_open(pid)
    try:
        copy = ctypes.CDLL(None, use_errno=True).syscall(_SYS_PIDFD_GETFD, pidfd, fd, 0)
    finally:
        os.close(pidfd)
    if copy < 0:
        raise OSError(ctypes.get_errno(), "pidfd_getfd")
    try:
        handle = fcntl.ioctl(copy, _TUNGETDEVNETNS)
        try:
            return os.fstat(handle).st_ino
        finally:
            os.close(handle)
    finally:
        os.close(copy)
