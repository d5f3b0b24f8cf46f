"""What the endpoint's kernel knows of its eDMA engine: the instance, and who wants its test interrupt.

A store to the engine's interrupt status raises the line without a status bit ("self interrupt").
The handler runs every callback and acknowledges with 0 in both clear registers, which ends that interrupt
and leaves the done and abort bits of channels to whoever drives channels. The line says neither who rang
nor how often, so a real completion looks like a ring, too (the merged behaviour; the RFC's own handler
lost rings that met a completion and erased real bits).

A ring that comes while the acknowledge is on its way may announce what the callbacks did not see: the
engine tells of it again (``edma_line``). The kernel acknowledges first; its store reaches the engine before
a ring can.

Source: Linux dw-edma-core.c, with the interrupt emulation of February 2026; the RFC's patches 15 to 17.
"""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

from ntbnet.devices.effects import Outbox
from ntbnet.errors import KernelError
from ntbnet.profile import EndpointHardware
from ntbnet.regs.edma import edma_block
from ntbnet.wire import MemWrite

ENGINE = "edma"
MAX_LINES = 16
"""Interrupt lines an engine has at most: one for each channel."""
ACKNOWLEDGE = b"\0\0\0\0"


class MapFormat(IntEnum):
    """Where an engine has its registers. Source: Linux dw_edma.h, enum dw_edma_map_format."""

    LEGACY = 0
    UNROLL = 1
    HDMA_COMPAT = 5
    HDMA_NATIVE = 7


@dataclass(frozen=True, slots=True)
class SelfIrqRegisters:
    """CPU addresses of the register that raises the test interrupt and of the one that ends it."""

    status: int
    clear: int


@dataclass(slots=True)
class _Callback:
    function: Callable[[], None]
    data: object
    on_removed: Callable[[], None]


class DwEdma:
    """One engine. Callbacks run one at a time and must not block.

    Args:
        hardware: of the host it belongs to.
        outbox: where register writes go.
        counters: takes ``edma_interrupts``, and ``edma_line_N`` for each line that was high.
        map_format: layout of the registers.
        is_present: it is there from the beginning, without ``probe``.

    Attributes:
        device: which controller it belongs to, by the address of its registers.
        was_present: it is there, or has been.
    """

    def __init__(
        self,
        hardware: EndpointHardware,
        outbox: Outbox,
        counters: Counter[str],
        map_format: MapFormat = MapFormat.UNROLL,
        *,
        is_present: bool = True,
    ) -> None:
        self.device = hardware.edma_base
        self._outbox = outbox
        self._map_format = map_format
        block = edma_block(hardware.edma_write_channels, hardware.edma_read_channels)
        base = hardware.edma_base
        self._clear = tuple(base + block.offset(name) for name in ("WR_INT_CLEAR", "RD_INT_CLEAR"))
        self._registers = SelfIrqRegisters(base + block.offset("RD_INT_STATUS"), self._clear[1])
        self._callbacks: tuple[_Callback, ...] = ()
        self._acknowledge = [outbox.signal_of(ENGINE, MemWrite(addr, ACKNOWLEDGE)) for addr in self._clear]
        self._names_of: dict[int, tuple[str, ...]] = {}
        """Set of lines -> the counters of its lines."""
        self._counters = counters
        self.is_present = self.was_present = is_present

    # the instance

    def probe(self) -> None:
        """The engine is there (again), with registers as after a reset."""
        self.is_present = self.was_present = True

    def remove(self) -> None:
        """The engine is gone: every callback is freed, and its owner told (EDMA 139)."""
        self.is_present = False
        gone, self._callbacks = self._callbacks, ()
        for one in gone:
            one.on_removed()

    # self interrupts

    def self_irq_registers(self) -> SelfIrqRegisters:
        """Where a store raises the test interrupt, engine or no engine.

        Raises:
            KernelError: EOPNOTSUPP: its map has no such register (EDMA 138).
        """
        if self._map_format in {MapFormat.LEGACY, MapFormat.HDMA_NATIVE}:
            raise KernelError(
                errno.EOPNOTSUPP, f"an eDMA with {self._map_format.name} registers has no test interrupt"
            )
        return self._registers

    def register_self_irq(
        self, function: Callable[[], None] | None, data: object, on_removed: Callable[[], None]
    ) -> None:
        """Run ``function`` at each interrupt; the same pair may be registered twice.

        Args:
            function: what to run.
            data: tells this registration from others of the same function.
            on_removed: called when the engine goes, after the registration has ended.

        Raises:
            KernelError: EINVAL: nothing to run; EAGAIN: no engine yet; ENODEV: no engine any more.
        """
        if function is None:
            raise KernelError(errno.EINVAL, "no function to run")
        if not self.was_present:
            raise KernelError(errno.EAGAIN, "the eDMA engine is not there yet")
        if not self.is_present:
            raise KernelError(errno.ENODEV, "the eDMA engine is gone")
        self._callbacks += (_Callback(function, data, on_removed),)

    def unregister_self_irq(self, function: Callable[[], None], data: object) -> None:
        """End the first registration of exactly this pair; nothing when there is none (EDMA 139)."""
        for position, one in enumerate(self._callbacks):
            if one.function == function and one.data is data:
                self._callbacks = self._callbacks[:position] + self._callbacks[position + 1 :]
                return

    # the lines

    def on_lines(self, lines: int) -> None:
        """Interrupt lines are high: run every callback, whichever line it is (EDMA 137), and acknowledge."""
        self._counters["edma_interrupts"] += 1
        for name in self._names_of.get(lines) or self._name(lines):
            self._counters[name] += 1
        self.run_callbacks()
        self._outbox.effects += self._acknowledge

    def _name(self, lines: int) -> tuple[str, ...]:
        names = tuple(f"edma_line_{line}" for line in range(MAX_LINES) if lines >> line & 1)
        if not lines >> MAX_LINES:
            self._names_of[lines] = names
        return names

    def run_callbacks(self) -> None:
        """A ring may have come or been lost: every callback looks."""
        for one in self._callbacks:
            one.function()


class DwEdmas:
    """The engines of one kernel (the driver's global list)."""

    def __init__(self, *engines: DwEdma) -> None:
        self._engines = engines

    def find_by_device(self, device: int) -> DwEdma | None:
        """The engine of the controller whose eDMA registers lie at CPU address ``device``, if any.

        One whose process is away is found as well: it may come back, and takes interrupts then.
        """
        return next((engine for engine in self._engines if engine.device == device), None)
