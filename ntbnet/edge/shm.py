"""Node DRAM: a file in /dev/shm that every process of the bridge maps.

All pages are allocated before the name appears, so no later store can fault for want of space,
and the name appears whole or not at all, even when the maker is killed half way.  The memory
outlives every process; only ``remove`` ends it.  A note in the run folder, written before the name
appears, says which file is ours: another bridge's memory of the same name is never touched.
``multiprocessing.shared_memory`` is not used: its tracker unlinks memory behind the survivors' backs.
"""

from __future__ import annotations

import errno
import mmap
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path

from ntbnet.devices.lease import LEASE_BYTES
from ntbnet.edge.rundir import RunDir, check_name
from ntbnet.errors import SetupError

SHM_FOLDER = Path("/dev/shm")  # noqa: S108 - names there are opened O_NOFOLLOW or made by link
_FENCE = threading.Lock()


def dram_path(bridge: str, node: str) -> Path:
    """File of a node's DRAM.

    Raises:
        ConfigError: a name is malformed.
    """
    check_name("bridge name", bridge)
    check_name("node name", node)
    return SHM_FOLDER / f"ntbnet.{bridge}.{node}.dram"


class Dram:
    """A mapping of one node's DRAM; made by ``create`` or ``attach``.

    Attributes:
        path: the file.
        size_bytes: length of the memory.
        ident: inode of the file; tells it from another one of the same name.
        view: all of it, writable, shared with every other mapper.  Slices of it stay good after
            ``close``; the pages go back when the last one is dropped.
    """

    def __init__(self, fd: int, path: Path, size_bytes: int) -> None:
        """Take over ``fd``, an open file of at least ``size_bytes``."""
        self.path = path
        self.size_bytes = size_bytes
        self.ident = os.fstat(fd).st_ino
        self._fd = fd
        self._map = mmap.mmap(fd, size_bytes)
        self.view = memoryview(self._map)

    @classmethod
    def create(
        cls,
        bridge: str,
        node: str,
        size_bytes: int,
        note: Callable[[os.stat_result], None] = lambda _: None,
    ) -> Dram:
        """Make the memory, zeroed and fully allocated, mode 0600.

        Args:
            bridge: bridge name.
            node: node name.
            size_bytes: a positive multiple of the page size.
            note: told which file it is, just before that has its name.

        Raises:
            SetupError: not enough space (names size and free space), the file exists, or /dev/shm
                cannot be written.  Nothing is left behind.
            ConfigError: a name is malformed.
            ValueError: the size is no positive multiple of the page size.
        """
        path = dram_path(bridge, node)
        _check_size(size_bytes)
        free = _free_bytes()
        if size_bytes > free:
            raise _no_space(path, size_bytes, free)
        try:
            fd = os.open(SHM_FOLDER, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise SetupError(f"cannot make shared memory in {SHM_FOLDER}: {error.strerror}") from None
        try:
            os.posix_fallocate(fd, 0, size_bytes)
            note(os.fstat(fd))
            _give_name(fd, path)
            return cls(fd, path, size_bytes)
        except FileExistsError:
            os.close(fd)
            raise SetupError(
                f"{path} exists already; stop the bridge that uses it, or remove the file"
            ) from None
        except OSError as error:
            os.close(fd)
            if error.errno == errno.ENOSPC:
                raise _no_space(path, size_bytes, _free_bytes()) from None
            raise SetupError(f"cannot make {path}: {error.strerror}") from None
        except BaseException:
            os.close(fd)
            raise

    @classmethod
    def attach(cls, bridge: str, node: str, size_bytes: int) -> Dram:
        """Map memory that somebody made.

        Raises:
            SetupError: there is none, its size differs, it is not fully allocated, or the file is not
                a plain file of this user's closed to others.
            ConfigError: a name is malformed.
            ValueError: the size is no positive multiple of the page size.
        """
        path = dram_path(bridge, node)
        _check_size(size_bytes)
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            raise SetupError(f"{path} does not exist; start the bridge first") from None
        except OSError as error:
            raise SetupError(f"cannot open {path}: {error.strerror}") from None
        try:
            found = os.fstat(fd)
            _check_private(path, found)
            if found.st_size != size_bytes:
                raise SetupError(
                    f"{path} has {found.st_size} bytes, expected {size_bytes}; run down, then up"
                )
            if found.st_blocks * 512 < size_bytes:
                raise SetupError(
                    f"{path} has only {found.st_blocks * 512} of {size_bytes} bytes allocated; remove it"
                )
            return cls(fd, path, size_bytes)
        except OSError as error:
            os.close(fd)
            raise SetupError(f"cannot map {path}: {error.strerror}") from None
        except BaseException:
            os.close(fd)
            raise

    def close(self) -> None:
        """Give the mapping up; the memory stays for the others.  Closing twice is harmless."""
        if self._fd < 0:
            return
        os.close(self._fd)
        self._fd = -1
        self.view.release()
        try:
            self._map.close()
        except BufferError:
            return  # slices are still out there: the mapping ends with the last of them


def open_lease(path: Path) -> memoryview:
    """The words of ``devices/lease.py``, shared by all who open ``path``; made when absent, mode 0600.

    The mapping ends with the process.

    Raises:
        SetupError: it cannot be made, or is not a plain file of this user's closed to others.
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
    except OSError as error:
        raise SetupError(f"cannot open {path}: {error.strerror}") from None
    try:
        found = os.fstat(fd)
        _check_private(path, found)
        os.posix_fallocate(fd, 0, LEASE_BYTES)
        return memoryview(mmap.mmap(fd, LEASE_BYTES))
    except OSError as error:
        raise SetupError(f"cannot map {path}: {error.strerror}") from None
    finally:
        os.close(fd)


def fence() -> None:
    """A full memory barrier: taking a lock is a locked instruction, which x86-64 orders all else around."""
    _FENCE.acquire()
    _FENCE.release()


def make(run: RunDir, node: str, size_bytes: int) -> bool:
    """Make a node's memory; a whole one of ours is kept, any other of ours replaced.

    Whoever still maps replaced or unlinked memory shares it with nobody who attaches from here on.

    Args:
        run: run folder of the bridge, there.
        node: node name.
        size_bytes: a positive multiple of the page size.

    Returns:
        True when it was made, False when it was there.

    Raises:
        SetupError: as ``Dram.create``; a file of that name that is not ours is in the way, say.
    """
    path = dram_path(run.name, node)

    def note(found: os.stat_result) -> None:
        run.write_dram(node, (found.st_dev, found.st_ino))

    with run.lock_nodes():
        found = _ours(run, node, path)
        if found is not None:
            if _is_whole(found, size_bytes):
                return False
            _unlink(path)
        Dram.create(run.name, node, size_bytes, note).close()
    return True


def remove(run: RunDir, node: str) -> bool:
    """Remove the memory's name, when the memory is ours, and the note; mappers keep their pages.

    Returns:
        True when there was memory of ours.

    Raises:
        SetupError: the file may not be removed.
    """
    if not run.exists():
        return False
    path = dram_path(run.name, node)
    with run.lock_nodes():
        is_ours = _ours(run, node, path) is not None
        if is_ours:
            _unlink(path)
        run.forget_dram(node)
    return is_ours


def _ours(run: RunDir, node: str, path: Path) -> os.stat_result | None:
    """The file, when it is the one that the note in the run folder is about."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    return found if (found.st_dev, found.st_ino) == run.read_dram(node) else None


def _is_whole(found: os.stat_result, size_bytes: int) -> bool:
    is_private = found.st_uid == os.geteuid() and not found.st_mode & 0o077
    return is_private and found.st_size == size_bytes and found.st_blocks * 512 >= size_bytes


def _unlink(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise SetupError(f"cannot remove {path}: {error.strerror}") from None


def _check_private(path: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise SetupError(f"{path} is not a plain file of this user's with mode 0600; remove it")


def _check_size(size_bytes: int) -> None:
    if size_bytes < 1 or size_bytes % mmap.PAGESIZE:
        raise ValueError(f"DRAM size {size_bytes} is no positive multiple of {mmap.PAGESIZE}")


def _give_name(fd: int, path: Path) -> None:
    """Link a nameless file; fails, as O_EXCL does, when anything (a dangling symlink too) has the name."""
    folder = os.open(SHM_FOLDER, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # os.link follows the /proc symlink only when it is given a folder descriptor.
        os.link(f"/proc/self/fd/{fd}", path.name, dst_dir_fd=folder, follow_symlinks=True)
    finally:
        os.close(folder)


def _free_bytes() -> int:
    try:
        free = os.statvfs(SHM_FOLDER)
    except OSError as error:
        raise SetupError(f"no shared memory: {SHM_FOLDER}: {error.strerror}; mount a tmpfs there") from None
    return free.f_bavail * free.f_frsize


def _no_space(path: Path, size_bytes: int, free_bytes: int) -> SetupError:
    how = f"free some, or enlarge it: mount -o remount,size=... {SHM_FOLDER} (container: --shm-size)"
    return SetupError(f"{path} needs {size_bytes} bytes, {SHM_FOLDER} has {free_bytes} free; {how}")
