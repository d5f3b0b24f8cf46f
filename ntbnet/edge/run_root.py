"""The folder of all bridges' run folders: which one by default; made with the first, gone with the last.

A restart makes sockets, renames notes and begins logs. On a disk each of those may wait for the file system's
journal, and so for whatever else the machine writes: a second and more was seen. So where /run is on a disk,
as in most containers, run folders lie in /dev/shm, which is memory and holds the nodes' DRAM anyway.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from functools import cache
from pathlib import Path

from ntbnet.errors import ConfigError

USUAL_ROOT = Path("/run/ntbnet")
MEMORY_ROOT = Path("/dev/shm/ntbnet")  # noqa: S108 - refused unless it is ours alone
"""Instead of the usual one where /run is on a disk."""
ROOMY_BYTES = 256 << 20
"""Size of /dev/shm from which on it takes run folders; by default containers have one of 64 MiB."""
_MEMORY = frozenset({"tmpfs", "ramfs"})
_MOUNTS = Path("/proc/self/mountinfo")
_MADE = ".made-by-ntbnet"
"""In a root that we made and may remove. A default root needs no such note; no bridge has that name."""


@cache
def default_root() -> Path:
    """Where run folders are unless ``run.dir`` says otherwise."""
    is_slow = not is_in_memory(USUAL_ROOT.parent)
    return MEMORY_ROOT if is_slow and _is_roomy(MEMORY_ROOT.parent) else USUAL_ROOT


def _is_roomy(folder: Path) -> bool:
    """True for memory whose whole size leaves room beside DRAM; False too when that cannot be found out."""
    try:
        size = os.statvfs(folder)
    except OSError:
        return False
    return is_in_memory(folder) and size.f_blocks * size.f_frsize >= ROOMY_BYTES


def is_in_memory(folder: Path) -> bool:
    """True when what is made in the folder lies on no disk; False too when that cannot be found out.

    Source: proc_pid_mountinfo(5): the third field is the device, the one behind ``-`` the type.
    """
    try:
        number = folder.stat().st_dev
        mounts = _MOUNTS.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    device = f"{os.major(number)}:{os.minor(number)}"
    for mount in mounts:
        fields, _, about = mount.partition(" - ")
        if fields.split()[2:3] == [device]:
            return about.split()[:1] != [] and about.split()[0] in _MEMORY
    return False


def make_root(root: Path) -> None:
    """Make it unless it is there.

    Raises:
        FileNotFoundError: another bridge has removed it meanwhile.
        OSError: it cannot be made.
        ConfigError: as ``check_root``.
    """
    root.parent.mkdir(parents=True, exist_ok=True)
    try:
        root.mkdir(mode=0o755)
    except FileExistsError:
        # one look: between two of them it may be removed and made again
        try:
            is_folder = stat.S_ISDIR(root.stat().st_mode)
        except FileNotFoundError:
            if not root.is_symlink():
                raise
            is_folder = False  # a link that leads nowhere: nobody makes those but by hand
        if not is_folder:
            raise
        check_root(root)
        return
    if _is_default(root):
        root.chmod(0o755)  # whatever the umask: services may have become another user
    else:
        (root / _MADE).touch()


def remove_root(root: Path) -> None:
    """Remove it when it is empty and we made it."""
    note = root / _MADE
    is_ours = _is_default(root) or note.exists()
    try:
        if is_ours and all(entry == note for entry in root.iterdir()):
            note.unlink(missing_ok=True)
            root.rmdir()
    except OSError:
        # another bridge's folder was made meanwhile, or the root may not be removed
        if not _is_default(root):
            with suppress(OSError):
                note.touch()


def check_root(root: Path) -> None:
    """Refuse what somebody else has put where everybody may make folders.

    Raises:
        ConfigError: it is there, and others than this user and root may change what is in it.
    """
    if root != MEMORY_ROOT:
        return
    try:
        found = root.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(found.st_mode) or found.st_uid not in {0, os.geteuid()} or found.st_mode & 0o022:
        raise ConfigError(
            f"{root} is not a folder that only this user or root may change: remove it, or set run.dir"
        )


def _is_default(root: Path) -> bool:
    return root in {USUAL_ROOT, MEMORY_ROOT}


def is_own_folder(path: Path) -> bool:
    """True when a folder of this user's is there itself, no link; not when somebody has just removed it."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()
