"""Where a service learns what is to go wrong in it: the run's fault folder, looked at when told to.

Without the folder this is one look at the start of a service; what injects is imported only with it.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ntbnet.errors import ConfigError
from ntbnet.log import Logger

if TYPE_CHECKING:
    from ntbnet.edge.driver import Driver
    from ntbnet.edge.fault_files import Crash, FaultFolder
    from ntbnet.edge.faulty import FaultLayer


class FaultSource:
    """The fault folder as one service sees it.

    Args:
        folder: its path (``RunDir.faults_path``).
        service: label of the service.
        log: of the service.
        memory: file of the node's DRAM; None: there is none to unlink.

    Attributes:
        before_death: called when the service dies at a crash point.
    """

    def __init__(self, folder: Path, service: str, log: Logger, memory: Path | None = None) -> None:
        self._path = folder
        self._service = service
        self._log = log
        self._memory = memory
        self._layer: FaultLayer | None = None
        self._is_armed = False
        self.before_death: Callable[[], None] = _nothing

    def look_early(self) -> None:
        """Take note of where to die, before anything is stored to shared memory."""
        if self._path.exists():
            self._try(self._arm)

    def look_first(self, driver: Driver) -> None:
        """Inject what there is at the start of the service."""
        if self._path.exists():
            self.look(driver)

    def look(self, driver: Driver) -> dict[str, Any]:
        """Die, and inject, as the folder says now; the answer to ``faults look``."""
        answers = self._try(self._arm), self._try(lambda: self._inject(driver))
        return answers[0] if "error" in answers[0] else answers[1]

    def _try(self, act: Callable[[], None]) -> dict[str, Any]:
        try:
            act()
        except ConfigError as problem:
            self._log.emit("chaos.plan_refused", reason=str(problem))
            return {"error": str(problem)}
        return {"ok": True}

    def _folder(self) -> FaultFolder:
        from ntbnet.edge.fault_files import FaultFolder

        return FaultFolder(self._path)

    def _inject(self, driver: Driver) -> None:
        old, self._layer = self._layer, None
        driver.inject(None)
        if old is not None:
            old.end()
            self._log.emit("chaos.plan_healed", injected=True)
        self._log.bind(under_faults=None)
        folder = self._folder()
        plan = folder.read_plan()
        if plan is None:
            return
        from ntbnet.edge.faulty import FaultLayer

        self._layer = FaultLayer(
            self._service, plan, folder.counts(self._service), self._log, self._memory, is_on=folder.has_plan
        )
        driver.inject(self._layer)
        self._log.bind(under_faults=True)
        rules = len(plan.for_service(self._service))
        self._log.emit("chaos.plan_installed", injected=True, seed=plan.seed, rules=rules)

    def report(self) -> dict[str, Any]:
        """Seed, and injections by rule; the answer to ``faults``. Empty without a plan."""
        return {} if self._layer is None else self._layer.as_body()

    # crash points

    def _arm(self) -> None:
        from ntbnet.devices.memory import unwatch_stores, watch_stores

        if self._is_armed:
            unwatch_stores()
            self._is_armed = False
        folder = self._folder()
        crash = folder.read_crash(self._service)
        if crash is None:
            return
        doom = _Doom(crash, folder, self._service, self._log, self._on_death)
        watch_stores(doom.before, doom.after)
        self._is_armed = True

    def _on_death(self) -> None:
        self.before_death()


class _Doom:
    """Counts the stores of one name, and ends the process at one of them."""

    def __init__(
        self, crash: Crash, folder: FaultFolder, service: str, log: Logger, last: Callable[[], None]
    ) -> None:
        self._crash = crash
        self._last = last
        self._folder = folder
        self._service = service
        self._log = log
        self._seen = 0

    def before(self, what: str) -> None:
        """``what`` is about to be stored."""
        if what == self._crash.point:
            self._seen += 1
            if self._crash.before:
                self._die_at_last()

    def after(self, what: str) -> None:
        """``what`` was stored."""
        if what == self._crash.point and not self._crash.before:
            self._die_at_last()

    def _die_at_last(self) -> None:
        if self._seen != self._crash.nth or not self._folder.claim_crash(self._service):
            return
        crash = self._crash
        self._log.emit("chaos.crashed", injected=True, point=crash.point, nth=crash.nth, before=crash.before)
        self._last()
        os.kill(os.getpid(), signal.SIGKILL)


def _nothing() -> None:
    """Nobody asks."""
