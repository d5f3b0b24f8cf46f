"""The run folder of one bridge: sockets, logs, process records, and numbers that only go up.

``<root>/<bridge>/`` is 0700 and owned by whoever runs the bridge.  When services become another user,
that user may pass through it (0710) to the folders that are its own: sockets and epochs. Trace rings lie in
/dev/shm (``trace_folder``).  Files are replaced whole (written aside, then renamed), so a killed writer
leaves the old content.  What is read back is checked like anything else from outside: unusable content
counts as absent.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import re
import stat
import time
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ntbnet.edge.process import ProcessRecord, own_record, process_record_from
from ntbnet.edge.run_record import RunRecord, run_record_from
from ntbnet.edge.run_root import check_root, default_root, make_root, remove_root
from ntbnet.edge.trace_folder import LAST, TraceFolder
from ntbnet.errors import ConfigError, SetupError
from ntbnet.trace_records import MAX_CAPACITY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

MAX_SOCKET_PATH_BYTES = 107
"""sun_path holds 108 bytes, the last one zero (unix(7))."""
EPOCH_END = 1 << 32
"""First number that is no epoch: they travel as 32 bits."""
RESTARTED_EPOCHS = 1 << 30
"""A counter whose content was lost goes on from here or the wall clock's seconds, whichever is higher."""

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,14}")
_ENTRY = re.compile(r"[a-z0-9][a-z0-9.-]{0,31}")
_COUNTERS_TIMEOUT_S = 5.0
"""Counters are locked for microseconds, by a stopped process until it is noticed and killed; longer only by
somebody who means it, and the folder may be the user's that services became."""
_LOOK_AGAIN_S = 0.005
_CREATE_TRIES = 100
"""A bridge being removed at the same moment takes folders away between our steps."""
_NODES = "nodes"
_FOLDERS = ("sockets", "logs", "epochs", "pids", _NODES)
_USERS_FOLDERS = ("sockets", "epochs")
"""What services that became another user write to."""


def check_name(what: str, name: str) -> None:
    """Refuse what cannot be part of an interface, namespace and file name.

    Raises:
        ConfigError: not 1..15 of a-z, 0-9 and ``-``, or starts with ``-``.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{what} {name!r}: allowed are 1..15 of a-z, 0-9 and -, not starting with -")


class RunDir:
    """Paths and small persisted facts of one bridge.

    Args:
        root: folder of all bridges' run folders; empty: ``run_root.default_root``.
        name: bridge name, 1..15 of a-z, 0-9 and ``-``.

    Raises:
        ConfigError: the name is malformed, or the root somebody else's.
    """

    def __init__(self, root: str | os.PathLike[str] = "", name: str = "ntbnet") -> None:
        check_name("bridge name", name)
        self.name = name
        self.root = Path(root).absolute() if root else default_root()
        check_root(self.root)
        self.path = self.root / name
        self._traces = TraceFolder(self.path, name)

    def create(self) -> None:
        """Make the folder and its subfolders, 0700; an existing one is kept when it is safe.

        Any number of processes may call this at once; who holds ``lock_nodes`` may not.

        Raises:
            SetupError: no permission, or something of another user's (or open to others) is in the way.
        """
        for _ in range(_CREATE_TRIES):
            self._create_folders(_FOLDERS)
            fd = _lock(self.path / _NODES, wait=True)
            if fd is None:
                continue
            try:
                self._traces.create()
            finally:
                _unlock(fd)
            return
        raise self._removed_again()

    def share(self, uid: int, gid: int) -> None:
        """Let services that became that user bind sockets, count epochs and trace, and do nothing else here.

        Raises:
            SetupError: it may not be done.
        """
        try:
            for name in _USERS_FOLDERS:
                os.chown(self.path / name, uid, gid, follow_symlinks=False)
            self._traces.share(uid, gid)
            os.chown(self.path, -1, gid, follow_symlinks=False)
            self.path.chmod(0o710)
        except OSError as error:
            raise SetupError(f"cannot share run folder {self.path}: {error.strerror}") from None

    def check_shared(self) -> None:
        """Find out whether this process, which became another user, can still work here.

        Raises:
            SetupError: a folder above lets others not pass.
        """
        if not all(os.access(self.path / name, os.R_OK | os.W_OK | os.X_OK) for name in _USERS_FOLDERS):
            raise SetupError(
                f"user {os.getuid()} cannot reach run folder {self.path}: let others pass through the "
                f"folders above it (chmod o+x), or choose another run.dir"
            )

    def exists(self) -> bool:
        """True when the folder is there."""
        return self.path.is_dir()

    def empty(self) -> None:
        """Remove all in the folder but not the folder, so that a lock on it stays one.  Idempotent.

        What a run that was killed has recorded is kept, once (``last_trace_folder``).

        Raises:
            SetupError: something cannot be removed.
        """
        if self.path.is_symlink():
            raise SetupError(f"run folder {self.path} is a symbolic link; remove it by hand")
        try:
            self._traces.set_aside()
            for folder, folders, files, fd in os.fwalk(self.path, topdown=False):
                for name in files:
                    if name != LAST or folder != str(self.path):
                        _gone_ok(os.unlink, name, fd)
                for name in folders:
                    if name == LAST and folder == str(self.path):
                        continue
                    is_link = stat.S_ISLNK(os.lstat(name, dir_fd=fd).st_mode)
                    _gone_ok(os.unlink if is_link else os.rmdir, name, fd)
        except FileNotFoundError:
            return
        except OSError as error:
            raise SetupError(f"cannot empty run folder {self.path}: {error.strerror}") from None

    def forget_trace(self) -> None:
        """Remove what this run recorded, not what the one before did.

        Raises:
            SetupError: it cannot be removed.
        """
        try:
            self._traces.forget()
        except OSError as error:
            raise SetupError(f"cannot remove {self.trace_folder}: {error.strerror}") from None

    def remove(self) -> None:
        """Remove the folder with all in it, and an empty root that we made.  Idempotent.

        A lock on the folder holds nobody up from here on: this is the last thing its holder does.

        Raises:
            SetupError: something cannot be removed.
        """
        self.empty()
        try:
            self._traces.remove()
            (self.path / LAST).unlink(missing_ok=True)
            self.path.rmdir()
        except FileNotFoundError:
            pass
        except OSError as error:
            raise SetupError(f"cannot remove run folder {self.path}: {error.strerror}") from None
        remove_root(self.root)

    @contextmanager
    def lock(self, *, wait: bool = True) -> Iterator[None]:
        """Be the only one who starts or stops this bridge; makes the folder when absent.

        Advisory, released by the kernel when its holder dies, not re-entrant.  A waiter whose folder
        is removed meanwhile gets the lock of a new one.

        Raises:
            SetupError: ``wait`` is false and somebody has it; or as ``create``.
        """
        while True:
            self._create_folders(())
            try:
                fd = _lock(self.path, wait=wait)
            except BlockingIOError:
                reason = "is being started or stopped by another process"
                raise SetupError(f"bridge {self.name} {reason}") from None
            if fd is not None:
                break
        try:
            self.create()
            yield
        finally:
            _unlock(fd)

    @contextmanager
    def lock_nodes(self) -> Iterator[None]:
        """Be the only one who makes or removes this bridge's nodes, or makes its folder of trace rings.

        May be taken inside ``lock``; not re-entrant.

        Raises:
            SetupError: the run folder is not there.
        """
        with self._locked(_NODES, math.inf):
            yield

    def socket_path(self, name: str) -> Path:
        """Where the socket of that name is bound.

        Raises:
            ConfigError: longer than a socket path may be: the run folder lies too deep.
        """
        path = self._entry("sockets", name + ".sock")
        length = len(os.fsencode(path))
        if length > MAX_SOCKET_PATH_BYTES:
            allowed = f"allowed are {MAX_SOCKET_PATH_BYTES}; choose a shorter run folder than {self.root}"
            raise ConfigError(f"socket path {path} has {length} bytes, {allowed}")
        return path

    def wake_path(self, service: str) -> Path:
        """Where the FIFO is that wakes that service (fabric ``local``)."""
        return self._entry("sockets", f"wake.{service}")

    @property
    def lease_path(self) -> Path:
        """Where the peers say which link epoch they store in (fabric ``local``)."""
        return self.path / "lease"

    @property
    def faults_path(self) -> Path:
        """Where the faults to inject are, while there are any."""
        return self.path / "faults"

    @property
    def trace_folder(self) -> Path:
        """Where trace rings are, and the wish for a trace; nothing is there when none could be made."""
        return self._traces.rings

    @property
    def last_trace_folder(self) -> Path:
        """Where the rings are of the run before this one, if it was killed; else nothing is there."""
        return self._traces.last_rings

    def want_trace(self, records: int | None) -> None:
        """Note that services are to trace everything into rings of so many records; None: no more."""
        path = self.trace_folder / "wanted"
        if records is None:
            path.unlink(missing_ok=True)
        else:
            _replace(path, json.dumps({"records": records}).encode())

    def wanted_trace(self) -> int | None:
        """Records of the rings that services are to trace into; None: they are not, or it is unusable."""
        records = _load(self.trace_folder / "wanted").get("records")
        return records if type(records) is int and 1 <= records <= MAX_CAPACITY else None

    @property
    def config_path(self) -> Path:
        """Where the configuration is that the bridge runs with."""
        return self.path / "config.toml"

    def log_path(self, service: str) -> Path:
        """Where the JSON lines of that service go."""
        return self._entry("logs", service + ".jsonl")

    def stderr_path(self, service: str) -> Path:
        """Where that service's stderr goes: text, for people."""
        return self._entry("logs", service + ".err")

    def node_path(self, node: str) -> Path:
        """Where it is noted that we made that node."""
        return self._entry("nodes", node)

    def raise_epoch(self, counter: str, above: int = 0) -> int:
        """Raise a persisted counter and return it: 1..2^32-1, never the same twice.

        By one, or to one more than ``above``, whichever is higher. Atomic among processes. Unusable content
        does not stop anybody: the counter goes on above every number it can have had.

        Raises:
            SetupError: the run folder is not there or cannot be written.
        """
        path = self._entry("epochs", counter)
        with self._locked("epochs", _COUNTERS_TIMEOUT_S):
            epoch = self.epoch(counter)
            if epoch is not None:
                epoch = max(epoch, above)
            if epoch is None or epoch + 1 >= EPOCH_END:
                epoch = min(max(RESTARTED_EPOCHS, int(time.time())), EPOCH_END - 2)
            _replace(path, b"%d\n" % (epoch + 1))
        return epoch + 1

    def note_epoch(self, counter: str, number: int) -> None:
        """Have the counter stand at ``number`` at least: another machine counts there.

        Raises:
            SetupError: the run folder is not there or cannot be written.
        """
        with self._locked("epochs", _COUNTERS_TIMEOUT_S):
            if (self.epoch(counter) or 0) < number:
                _replace(self._entry("epochs", counter), b"%d\n" % number)

    def epoch(self, counter: str) -> int | None:
        """The counter as it is: 0 before the first raise, None when its content is unusable."""
        try:
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            with os.fdopen(os.open(self._entry("epochs", counter), flags), "rb") as file:
                content = file.read(32)
        except FileNotFoundError:
            return 0
        except OSError:
            return None
        if not re.fullmatch(rb"[1-9][0-9]{0,9}\n", content):
            return None
        return int(content) if int(content) < EPOCH_END else None

    def secret(self) -> int:
        """The 64 random bits that the services of this run share, 1..2^64-1; made by the first who asks.

        ``empty`` ends it: the next run has another one.

        Raises:
            SetupError: the run folder is not there or cannot be written, or the content is unusable:
                a new secret would be another one than that of the services that run.
        """
        path = self.path / "secret"
        with self._locked("epochs", _COUNTERS_TIMEOUT_S):
            try:
                with path.open("rb") as file:
                    content = file.read(32)
            except FileNotFoundError:
                content = b"%016x\n" % (int.from_bytes(os.urandom(8), "little") or 1)
                _replace(path, content)
            except OSError as error:
                raise SetupError(f"cannot read {path}: {error.strerror}") from None
        if not re.fullmatch(rb"[0-9a-f]{16}\n", content) or not int(content, 16):
            raise SetupError(f"{path} is unusable; stop bridge {self.name} and start it again")
        return int(content, 16)

    def record_process(self, service: str, record: ProcessRecord | None = None) -> ProcessRecord:
        """Note which process is that service; this one unless told."""
        record = record or own_record()
        _replace(self._entry("pids", service), json.dumps(asdict(record)).encode())
        return record

    def process(self, service: str) -> ProcessRecord | None:
        """The process noted as that service; None when none is, or the note is unusable."""
        return process_record_from(_load(self._entry("pids", service)))

    def processes(self) -> dict[str, ProcessRecord]:
        """All noted processes by service, living or not."""
        try:
            names = sorted(entry.name for entry in (self.path / "pids").iterdir())
        except OSError:
            return {}
        found = {name: self.process(name) for name in names if _ENTRY.fullmatch(name)}
        return {name: record for name, record in found.items() if record is not None}

    def forget_process(self, service: str) -> None:
        """Drop the note; nothing happens when there is none."""
        self._entry("pids", service).unlink(missing_ok=True)

    def want_link(self, node: str, wanted: bool) -> None:
        """Note whether the link is wanted on that node, for services that start from now on."""
        _replace(self._entry("nodes", f"{node}.link"), json.dumps({"wanted": wanted}).encode())

    def link_is_wanted(self, node: str) -> bool:
        """False once the link was taken down on that node by command, and not up again."""
        return _load(self._entry("nodes", f"{node}.link")).get("wanted") is not False

    def write_run(self, record: RunRecord) -> None:
        """Note what runs here.

        Raises:
            ValueError: the record is another bridge's.
        """
        if record.name != self.name:
            raise ValueError(f"record of {record.name!r} for bridge {self.name!r}")
        _replace(self.path / "run.json", json.dumps(asdict(record)).encode())

    def read_run(self) -> RunRecord | None:
        """What runs (or ran) here; None without a note, or when it is unusable or another bridge's."""
        record = run_record_from(_load(self.path / "run.json"))
        return record if record is not None and record.name == self.name else None

    def write_config(self, text: str) -> None:
        """Keep the configuration (TOML) that the bridge runs with."""
        _replace(self.config_path, text.encode())

    def read_config(self) -> str | None:
        """The configuration (TOML) that the bridge runs with; None when it cannot be read."""
        try:
            return self.config_path.read_text(encoding="utf-8")
        except (OSError, UnicodeError):
            return None

    def write_node(self, node: str, note: Mapping[str, Any]) -> None:
        """Note, before it is made, that the node is ours."""
        _replace(self.node_path(node), json.dumps(note).encode())

    def read_node(self, node: str) -> Mapping[str, Any] | None:
        """The note about the node; None when we made none, empty when it is unusable."""
        path = self.node_path(node)
        return _load(path) if os.path.lexists(path) else None

    def forget_node(self, node: str) -> None:
        """Drop the note about the node; nothing happens when there is none."""
        self.node_path(node).unlink(missing_ok=True)

    def write_dram(self, node: str, file: tuple[int, int]) -> None:
        """Note, before it has its name, which file (device, inode) the node's DRAM is."""
        _replace(self._entry("nodes", f"{node}.dram"), json.dumps({"file": file}).encode())

    def read_dram(self, node: str) -> tuple[int, int] | None:
        """The file (device, inode) that is the node's DRAM; None when we made none, or unusable."""
        file = _load(self._entry("nodes", f"{node}.dram")).get("file")
        if not isinstance(file, list) or len(file) != 2 or any(type(number) is not int for number in file):
            return None
        return file[0], file[1]

    def forget_dram(self, node: str) -> None:
        """Drop the note about the node's DRAM; nothing happens when there is none."""
        self._entry("nodes", f"{node}.dram").unlink(missing_ok=True)

    def _create_folders(self, subfolders: tuple[str, ...]) -> None:
        try:
            for _ in range(_CREATE_TRIES):
                try:
                    make_root(self.root)
                    _make_own_folder(self.path)
                    for sub in subfolders:
                        _make_own_folder(self.path / sub, inside_ours=True)
                except FileNotFoundError:
                    continue
                return
            raise self._removed_again()
        except OSError as error:
            raise SetupError(f"cannot make run folder {self.path}: {error.strerror}; run as root") from None

    def _removed_again(self) -> SetupError:
        return SetupError(f"run folder {self.path} is removed again and again; stop who does it")

    def _entry(self, folder: str, name: str) -> Path:
        if not _ENTRY.fullmatch(name):
            raise ValueError(f"no entry of a run folder: {name!r}")
        return self.path / folder / name

    @contextmanager
    def _locked(self, subfolder: str, timeout_s: float) -> Iterator[None]:
        folder = self.path / subfolder
        fd = _lock(folder, wait=True) if timeout_s == math.inf else _lock_within(folder, timeout_s)
        if fd is None:
            raise SetupError(f"run folder {self.path} is not there; start the bridge first")
        try:
            yield
        finally:
            _unlock(fd)


def _lock(folder: Path, *, wait: bool) -> int | None:
    """Lock a folder itself; None when it is not there, or was removed while we waited.

    Raises:
        BlockingIOError: ``wait`` is false and another process has the lock.
    """
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _is_at(fd, folder):
            return fd
    except BaseException:
        os.close(fd)
        raise
    os.close(fd)
    return None


def _lock_within(folder: Path, timeout_s: float) -> int | None:
    """As ``_lock``, for so long. SetupError: another process keeps it."""
    end_s = time.monotonic() + timeout_s
    while True:
        try:
            return _lock(folder, wait=False)
        except BlockingIOError:
            if time.monotonic() > end_s:
                raise SetupError(f"{folder} is locked by another process, {timeout_s:g} s long") from None
        time.sleep(_LOOK_AGAIN_S)  # flock has no time limit of its own; who holds it writes one number


def _unlock(fd: int) -> None:
    fcntl.flock(fd, fcntl.LOCK_UN)  # a child forked meanwhile would keep the lock otherwise
    os.close(fd)


def _make_own_folder(folder: Path, *, inside_ours: bool = False) -> None:
    try:
        folder.mkdir(0o700)
    except FileExistsError:
        _check_own_folder(folder, inside_ours=inside_ours)


def _check_own_folder(folder: Path, *, inside_ours: bool) -> None:
    """Refuse a folder that others may have made, or may look into.

    Inside our run folder only we make folders: there the owner is whom root gave it to.
    """
    found = folder.lstat()
    is_ours = found.st_uid == os.geteuid() or (inside_ours and os.geteuid() == 0)
    # 0710: another user's group may pass through, see RunDir.share
    is_closed = found.st_mode & 0o077 in ((0,) if inside_ours else (0, 0o010))
    if not stat.S_ISDIR(found.st_mode) or not is_ours or not is_closed:
        raise SetupError(f"{folder} is not a folder of this user's with mode 0700; remove it")


def _is_at(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.lstat())
    except FileNotFoundError:
        return False


def _gone_ok(remove: Callable[..., None], name: str, folder: int) -> None:
    try:
        remove(name, dir_fd=folder)
    except FileNotFoundError:
        return


def _replace(path: Path, content: bytes) -> None:
    """Write a file whole; in a folder that root gave away it is the folder's owner's."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        aside.unlink(missing_ok=True)
        fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            folder = path.parent.stat()
            if os.geteuid() == 0 and folder.st_uid != 0:
                os.fchown(fd, folder.st_uid, folder.st_gid)
            os.write(fd, content)
        finally:
            os.close(fd)
        aside.rename(path)
    except OSError as error:
        raise SetupError(f"cannot write {path}: {error.strerror}") from None


def _load(path: Path) -> dict[str, Any]:
    """A small JSON object; empty when there is none or it is unusable."""
    try:
        # the folder may be another user's, see RunDir.share
        with os.fdopen(
            os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb"
        ) as file:
            data = json.loads(file.read(65536))
    except (OSError, ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}
