"""Named network namespaces: where they are mounted, how to be inside one for a moment.

A namespace belongs to a thread, not to a process: everything here moves the calling thread only.
Sockets and TUN handles keep the namespace they were opened in, so a service enters its node once,
opens what it needs and returns.  Making and removing namespaces is ``ntbnet.edge.node``'s.
"""

from __future__ import annotations

import ctypes
import errno
import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ntbnet.errors import SetupError

if TYPE_CHECKING:
    from collections.abc import Iterator

NETNS_FOLDER = Path("/run/netns")
"""Where ``ip netns`` mounts namespaces by name."""

_OWN_NETNS = Path("/proc/thread-self/ns/net")
_CLONE_NEWNET = 0x4000_0000
_NEEDED_CAPABILITIES = {"CAP_NET_ADMIN": 12, "CAP_SYS_ADMIN": 21}
_libc = ctypes.CDLL(None, use_errno=True)


def netns_path(name: str) -> Path:
    """Where the namespace is mounted.

    Raises:
        ValueError: ``name`` is empty, starts with a dot or contains a slash or a zero byte.
    """
    if not name or name.startswith(".") or "/" in name or "\0" in name:
        raise ValueError(f"no namespace name: {name!r}")
    return NETNS_FOLDER / name


def netns_inode(name: str) -> int | None:
    """Inode number of the live namespace; None when nothing, or only a dead mount point, is there."""
    try:
        found = netns_path(name).stat()
    except FileNotFoundError:
        return None
    return found.st_ino if found.st_dev == _OWN_NETNS.stat().st_dev else None


def missing_capabilities() -> tuple[str, ...]:
    """Capabilities that making and entering namespaces needs and this thread lacks."""
    with Path("/proc/thread-self/status").open() as status:
        effective = next((int(line.split()[1], 16) for line in status if line.startswith("CapEff:")), 0)
    return tuple(name for name, bit in _NEEDED_CAPABILITIES.items() if not effective >> bit & 1)


def enter(name: str) -> None:
    """Move the calling thread into the namespace, for good.

    Raises:
        SetupError: there is no such namespace, or the process may not enter it.
    """
    try:
        fd = os.open(netns_path(name), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise SetupError(f"network namespace {name} does not exist; start the bridge first") from None
    except OSError as error:
        raise SetupError(f"cannot open network namespace {name}: {error.strerror}; run as root") from None
    try:
        _setns(fd)
    except OSError as error:
        reason = error.strerror
        if error.errno == errno.EPERM:
            reason = "not permitted; run as root or give CAP_SYS_ADMIN and CAP_NET_ADMIN"
        raise SetupError(f"cannot enter network namespace {name}: {reason}") from None
    finally:
        os.close(fd)


@contextmanager
def inside(name: str) -> Iterator[None]:
    """Be in the namespace for the length of a ``with`` block; the way back is taken on errors too.

    Raises:
        SetupError: as ``enter``; or the way back failed, and then the process must end.
    """
    own = os.open(_OWN_NETNS, os.O_RDONLY | os.O_CLOEXEC)
    try:
        enter(name)
        try:
            yield
        finally:
            try:
                _setns(own)
            except OSError as error:
                raise SetupError(f"cannot return from network namespace {name}: {error.strerror}") from None
    finally:
        os.close(own)


def processes_inside(name: str) -> list[int]:
    """Ids of the processes whose main thread is in the namespace; those we may not look at are left out."""
    inode = netns_inode(name)
    if inode is None:
        return []
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if (entry / "ns/net").stat().st_ino == inode:
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def _setns(fd: int) -> None:
    if _libc.setns(fd, _CLONE_NEWNET) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
