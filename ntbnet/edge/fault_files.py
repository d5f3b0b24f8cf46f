"""The ``faults`` folder of a run: the plan, what was injected so far, and where a process is to die.

The folder is there only while something is to go wrong: without it nothing here costs more than one look.
Everything in it survives the process that reads or writes it, a killed one too, so that its replacement
goes on where it was.

========================  ====================================================================
``plan``                  the plan (msgpack)
``counts.SERVICE``        64-bit words, mapped: injections by rule, then things seen by stream, then by rule
                          interrupts that came again, then by rule injections that the log tells of, then
                          by rule interrupts that came again and had their own run of a handler
``crash.SERVICE``         where that service is to die (msgpack); renamed by who does
``crashed.SERVICE``       where it did
========================  ====================================================================
"""

from __future__ import annotations

import mmap
import os
import shutil
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgpack

from ntbnet import faults
from ntbnet.devices.crash_points import CRASH_POINTS
from ntbnet.errors import ConfigError, SetupError, WireError
from ntbnet.faults import MAX_RULES, FaultPlan
from ntbnet.topology import SERVICES
from ntbnet.wire import unpack_body

MAX_FILE_BYTES = 1 << 20
MAX_STREAMS = 64
AGAIN_AT = MAX_RULES + MAX_STREAMS
TOLD_AT = AGAIN_AT + MAX_RULES
HANDLED_AT = TOLD_AT + MAX_RULES
WORDS = HANDLED_AT + MAX_RULES
COUNTS_BYTES = 8 * WORDS
MAX_NTH = 1 << 32


@dataclass(frozen=True, slots=True)
class Crash:
    """Where a process is to die.

    Raises:
        ConfigError: no such point, or ``nth`` is outside 1..2^32.
    """

    point: str
    """A key of CRASH_POINTS."""
    nth: int = 1
    """The so-manieth store of that name, counted from when the process took note."""
    before: bool = True
    """Before the store; else just after it."""

    def __post_init__(self) -> None:
        if self.point not in list(CRASH_POINTS):
            raise ConfigError(f"crash point {self.point!r:.40}: must be one of {', '.join(CRASH_POINTS)}")
        if type(self.nth) is not int or not 1 <= self.nth <= MAX_NTH:
            raise ConfigError(f"crash point {self.point}: nth = {self.nth!r:.40}: must be 1..{MAX_NTH}")
        if self.before not in (True, False):
            raise ConfigError(
                f"crash point {self.point}: before = {self.before!r:.40}: must be true or false"
            )


class FaultFolder:
    """The folder at ``path``, in a run folder; see the head of the module.

    What root puts there is the user's that the run's sockets are of: services may have become that user.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def exists(self) -> bool:
        """True when there may be something in it."""
        return self.path.is_dir()

    def _write(self, name: str, body: dict[str, Any]) -> None:
        try:
            self.path.mkdir(mode=0o700, exist_ok=True)
            aside = self.path / f".{name}.{os.getpid()}"
            aside.unlink(missing_ok=True)
            fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            with os.fdopen(fd, "wb") as file:
                file.write(msgpack.packb(body))
                self._give_away(fd)
            aside.rename(self.path / name)
        except OSError as problem:
            raise SetupError(f"cannot write {self.path / name}: {problem.strerror}") from None

    def _give_away(self, fd: int) -> None:
        sockets = self.path.with_name("sockets")
        if os.geteuid() == 0 and sockets.exists():
            owner = sockets.stat()
            os.fchown(fd, owner.st_uid, owner.st_gid)
            os.chown(self.path, owner.st_uid, owner.st_gid, follow_symlinks=False)

    def _read(self, name: str) -> dict[str, Any] | None:
        """What a file holds, not yet checked; None when it is not there. ConfigError: no msgpack map."""
        path = self.path / name
        try:
            # root looks before it becomes the user whose folder this is: a FIFO there must not hold it up
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            with os.fdopen(fd, "rb") as file:
                if not stat.S_ISREG(os.fstat(fd).st_mode):
                    raise ConfigError(f"{path}: must be a regular file")
                return unpack_body(file.read(MAX_FILE_BYTES))
        except FileNotFoundError:
            return None
        except (OSError, WireError) as problem:
            raise ConfigError(f"{path}: {problem}") from None

    # the plan

    def write_plan(self, plan: FaultPlan) -> None:
        """Keep the plan, all counts 0. SetupError: it cannot be written."""
        for service in SERVICES:
            (self.path / f"counts.{service}").unlink(missing_ok=True)
        self._write("plan", faults.to_body(plan))

    def read_plan(self) -> FaultPlan | None:
        """The plan; None without one. ConfigError: the file is none."""
        body = self._read("plan")
        return None if body is None else faults.from_body(body, str(self.path / "plan"))

    def has_plan(self) -> bool:
        """True while there is one, right or wrong."""
        return (self.path / "plan").exists()

    def remove_plan(self) -> None:
        """Forget the plan; counts and crash points stay. Idempotent."""
        (self.path / "plan").unlink(missing_ok=True)

    def counts(self, service: str) -> memoryview[int]:
        """WORDS numbers that outlive who counts, made when absent. ConfigError: they cannot be."""
        path = self.path / f"counts.{service}"
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                os.posix_fallocate(fd, 0, COUNTS_BYTES)
                return memoryview(mmap.mmap(fd, COUNTS_BYTES)).cast("Q")
            finally:
                os.close(fd)
        except OSError as problem:
            raise ConfigError(f"{path}: {problem.strerror}") from None

    def injected(self) -> dict[str, list[int]]:
        """WORDS numbers by service, as far as a service has a plan: injections by rule, then things seen."""
        found = {}
        for service in SERVICES:
            try:
                fd = os.open(self.path / f"counts.{service}", os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
                with os.fdopen(fd, "rb") as file:
                    words = file.read(COUNTS_BYTES)
            except OSError:
                continue
            if len(words) == COUNTS_BYTES:
                found[service] = list(memoryview(words).cast("Q"))
        return found

    # crash points

    def write_crash(self, service: str, crash: Crash) -> None:
        """Have that service die there, once."""
        (self.path / f"crashed.{service}").unlink(missing_ok=True)
        body = {"point": crash.point, "nth": crash.nth, "before": crash.before}
        self._write(f"crash.{service}", body)

    def read_crash(self, service: str) -> Crash | None:
        """Where that service is to die; None nowhere. ConfigError: the file does not say."""
        body = self._read(f"crash.{service}")
        if body is None:
            return None
        if set(body) != {"point", "nth", "before"}:
            raise ConfigError(f"{self.path / f'crash.{service}'}: point, nth and before are expected")
        return Crash(body["point"], body["nth"], body["before"])

    def claim_crash(self, service: str) -> bool:
        """True for the one process that is to die now."""
        try:
            (self.path / f"crash.{service}").rename(self.path / f"crashed.{service}")
        except FileNotFoundError:
            return False
        return True

    def has_crashed(self, service: str) -> bool:
        """True when the service died where ``write_crash`` said last."""
        return (self.path / f"crashed.{service}").exists()

    def remove_crash(self, service: str) -> None:
        """Have that service die nowhere. Idempotent."""
        (self.path / f"crash.{service}").unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove the folder with all in it. Idempotent."""
        with suppress(FileNotFoundError):
            shutil.rmtree(self.path)
