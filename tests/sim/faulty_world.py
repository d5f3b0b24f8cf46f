"""A world whose processes inject a plan of faults, as the edge does it: the same layer, in virtual time."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from functools import partial
from typing import Any

from ntbnet.edge.driver import SignalledDevice
from ntbnet.edge.fault_files import AGAIN_AT, HANDLED_AT, WORDS
from ntbnet.edge.faulty import FaultLayer
from ntbnet.edge.wake import decode
from ntbnet.faults import FaultPlan, plan_from
from ntbnet.wire import Irq, Kind, MemWrite
from tests.sim.process import SECOND, Frame
from tests.sim.world import World

Injected = tuple[str, str, int]
"""Kind, path and sequence of one fault."""


class VirtualLoop:
    """What the layer wants of an event loop."""

    def __init__(self, world: World) -> None:
        self._world = world

    def call_soon(self, callback: Callable[..., object], *args: Any) -> None:
        self.call_later(0, callback, *args)

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any) -> None:
        self._world.at(self._world.now_ns + int(delay * SECOND), lambda: self._call(partial(callback, *args)))

    @staticmethod
    def _call(callback: Callable[[], object]) -> None:
        callback()


class FaultLog:
    """Remembers what was injected."""

    def __init__(self, injected: list[Injected]) -> None:
        self._injected = injected

    def emit(self, event: str, **keys: Any) -> None:
        if event == "chaos.fault_injected":
            assert keys["injected"] is True
            self._injected.append((keys["kind"], keys["path"], keys["sequence"]))


class FaultyWorld(World):
    """Faults are injected from ``install`` on, until ``heal``; by services that start meanwhile, too.

    Attributes:
        injected: each fault that was logged, oldest first.
        slept_s: what slow services slept.
    """

    def __init__(self, *args: Any, **keys: Any) -> None:
        super().__init__(*args, **keys)
        self.injected: list[Injected] = []
        self.slept_s = 0.0
        self.plan: FaultPlan | None = None
        self.counts: dict[str, array[int]] = {}
        self._layers: dict[str, tuple[FaultLayer, dict[str, Any]]] = {}

    def install(self, *rules: dict[str, Any], seed: int = 1) -> FaultyWorld:
        """Inject a plan from now on."""
        self.plan = plan_from({"seed": seed, "faults": list(rules)}, "test")
        for name in self.processes:
            self._wrap(name)
        return self

    def heal(self) -> None:
        """Inject nothing any more."""
        self.plan = None
        layers, self._layers = self._layers, {}
        for name, (layer, _) in layers.items():
            layer.end()
            if name in self.processes:
                process = self.processes[name]
                process.handle = process.interrupts.handle

    def times(self, kind: str) -> int:
        """How often a kind was injected."""
        assert self.plan is not None
        rules = [index for index, rule in enumerate(self.plan.faults) if rule.kind == kind]
        return sum(words[index] for words in self.counts.values() for index in rules)

    def came_again(self, name: str) -> list[int]:
        """How many interrupts came again in that service, by rule."""
        return self._counted(name, AGAIN_AT)

    def handled_again(self, name: str) -> list[int]:
        """How often its device handled those, by rule."""
        return self._counted(name, HANDLED_AT)

    def _counted(self, name: str, at: int) -> list[int]:
        return list(self.counts[name][at:][: len(self.plan.faults if self.plan else ())])

    def start(self, *names: str) -> None:
        super().start(*names)
        for name in names:
            if self.plan is not None:
                self._wrap(name)

    def _wrap(self, name: str) -> None:
        assert self.plan is not None
        process = self.processes[name]
        counts = self.counts.setdefault(name, array("Q", bytes(8 * WORDS)))
        layer = FaultLayer(name, self.plan, counts, FaultLog(self.injected), sleep=self._sleep)

        device: Any = process.device
        signalled = (device.is_interrupt,) if isinstance(device, SignalledDevice) else ()
        loop = VirtualLoop(self)

        def interrupt(src: str, message: Irq | MemWrite) -> bool:
            if self.processes.get(name) is not process:
                return False
            before = process.interrupts.collapsed[src]
            process.perform(process.interrupts.handle(src, message, self.now_ns))
            return process.interrupts.collapsed[src] == before

        def flush() -> None:
            if self.processes.get(name) is process:
                process.end_step()

        layer.attach(lambda: self.now_ns, loop, flush, interrupt, process.paths, *signalled)
        send, send_now = layer.around_sends(partial(self._carry, name), partial(self._carry, name))
        process.handle = layer.around_handle(process.handle)
        take = partial(self._take, name)
        on_wake = layer.around_on_wake(take, take)
        wake = layer.around_wake(partial(self._wake_from, name))
        self._layers[name] = layer, {"send": send, "own": send_now, "on_wake": on_wake, "wake": wake}

    def _wake_from(self, src: str, dst: str, message: Any) -> bool:
        World.wake(self, src, dst, message)
        return True

    def _sleep(self, seconds: float) -> None:
        self.slept_s += seconds

    def _carry(self, src: str, dst: str, header: bytes, payload: bytes | memoryview) -> bool:
        World.carry(self, src, dst, (header, bytes(payload)))
        return True

    def carry(self, src: str, dst: str, frame: Frame) -> None:
        layer = self._layers.get(src)
        if layer is None:
            super().carry(src, dst, frame)
        else:
            layer[1]["send" if frame[0][1] >= Kind.MEM_WRITE else "own"](dst, *frame)

    def wake(self, src: str, dst: str, message: Irq | MemWrite) -> None:
        layer = self._layers.get(src)
        (layer[1]["wake"] if layer else partial(super().wake, src))(dst, message)

    def _wake(self, dst: str, record: bytes) -> None:
        layer = self._layers.get(dst)
        if layer is None or dst not in self.processes or self.processes[dst].is_paused:
            super()._wake(dst, record)
        else:
            layer[1]["on_wake"](*decode(record))

    def _take(self, name: str, src: str, message: Irq | MemWrite) -> None:
        process = self.processes[name]
        process.perform(process.handle(src, message, self.now_ns))
        process.end_step()
