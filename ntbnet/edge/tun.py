"""The TUN interface of a node: made persistent once, then attached to by whoever drives it.

A persistent TUN outlives the process that made it, with its addresses and routes; one handle may
be attached at a time.  The kernel switches the carrier off when the handle closes, so a killed
peer shows as a cable pulled.  Packets are plain IP, without the packet-information header.

Source: Linux drivers/net/tun.c (tun_set_iff, tun_net_change_carrier, __tun_detach) and
include/uapi/linux/if_tun.h; net/core/link_watch.c and net/ethtool/ioctl.c (ethtool_op_get_link).
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import socket
import struct
from pathlib import Path

from ntbnet.edge.netns import inside, netns_inode
from ntbnet.errors import SetupError

TUN_DEVICE = Path("/dev/net/tun")
MAX_PACKET_BYTES = 65535
"""No IP packet without a jumbo option is longer."""

_TUNSETIFF = 0x4004_54CA
_TUNSETPERSIST = 0x4004_54CB
_TUNGETIFF = 0x8004_54D2
_TUNSETCARRIER = 0x4004_54E2
_TUNGETDEVNETNS = 0x54E3
_IFF_TUN = 0x0001
_IFF_NO_CARRIER = 0x0040
"""Attach without switching the carrier on (Linux 6.2 and later; older kernels ignore the bit)."""
_IFF_PERSIST = 0x0800
_IFF_NO_PI = 0x1000
_IFREQ = struct.Struct("16sH22x")
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
            _attach(fd, netns, name)
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

    Raises:
        SetupError: no TUN device node, no permission, no such namespace or interface, the interface
            is not a persistent TUN, or another process is attached (named in the message).
    """

    def __init__(self, netns: str, name: str = "ntb0") -> None:
        self.name = name
        self.netns = netns
        self._fd = -1
        with inside(netns):
            if not has_interface(name):
                raise SetupError(f"no TUN {name} in network namespace {netns}; start the bridge again")
            fd = _open_device()
            try:
                _attach(fd, netns, name)
                flags = _IFREQ.unpack(fcntl.ioctl(fd, _TUNGETIFF, bytes(_IFREQ.size)))[1]
                if not flags & _IFF_PERSIST:
                    raise SetupError(f"TUN {name} in {netns} is not persistent; start the bridge again")
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
        """The next packet the node sends, whole; None when there is none now.

        Raises:
            SetupError: the interface is gone.
        """
        try:
            return os.read(self._fd, MAX_PACKET_BYTES)
        except BlockingIOError:
            return None
        except OSError as error:
            raise self._gone(error) from None

    def readinto(self, buffer: memoryview) -> int:
        """Read the next packet into ``buffer``.

        Args:
            buffer: writable bytes, at least as long as the interface's MTU: the kernel cuts a longer
                packet without a word.

        Returns:
            Length of the packet in bytes; 0 when there is none now.

        Raises:
            SetupError: the interface is gone.
        """
        try:
            return os.readv(self._fd, (buffer,))
        except BlockingIOError:
            return 0
        except OSError as error:
            raise self._gone(error) from None

    def write(self, packet: memoryview | bytes | bytearray) -> bool:
        """Hand one IP packet to the node; False when the kernel refuses it (full, down, or not IP).

        Raises:
            SetupError: the interface is gone.
        """
        try:
            os.write(self._fd, packet)
        except OSError as error:
            if error.errno in _REFUSED:
                return False
            raise self._gone(error) from None
        return True

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


def _attach(fd: int, netns: str, name: str) -> None:
    try:
        fcntl.ioctl(fd, _TUNSETIFF, _IFREQ.pack(name.encode(), _IFF_TUN | _IFF_NO_PI | _IFF_NO_CARRIER))
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
