"""The whole bridge in one process: five device models, real paths, one virtual clock, one seed.

A ``World`` does what the edge does for each service, in virtual time: frames travel through one
FIFO for each ordered pair of services, timers fire when nothing earlier is left to do. A service can be
killed (its model is dropped, its node's DRAM stays) and started again with a higher incarnation. It can be
stopped, between two events or in the middle of a direct store. Each direct store is judged: see ``watch``.
Two worlds with one seed do the same, to the byte: compare ``digest``.
"""

from __future__ import annotations

import hashlib
import heapq
import mmap
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from ntbnet.config import Config, load_text
from ntbnet.devices.direct import Far
from ntbnet.devices.edma import Edma
from ntbnet.devices.endpoint import FUNCTION_REGION_BYTES, EndpointController
from ntbnet.devices.framing import VNET_HEADER_BYTES
from ntbnet.devices.lease import LEASE_BYTES, Lease
from ntbnet.devices.memory import Window
from ntbnet.devices.peer_ep import EpPeer
from ntbnet.devices.peer_rc import RcPeer
from ntbnet.devices.root_complex import RootComplex
from ntbnet.edge.wake import encode as encode_wake
from ntbnet.log import EVENTS
from ntbnet.topology import NODE_OF, SERVICES
from ntbnet.wire import SERVICE_BY_LABEL, Irq, MemWrite
from tests.fabric import FABRIC, in_fabric
from tests.sim.process import MS, SECOND, US, Device, Frame, Process
from tests.sim.watch import FarMemory, Watch

SMALL = """
[node.rc]
dram_bytes = 16777216
[node.ep]
dram_bytes = 16777216
"""
"""Configuration of a world: the default one with little DRAM."""

POLLED = "[transport]\nuse_intr = false\n"
"""Doorbells both ways, as before the series."""

MEMORY_IDS = {"rc": 11, "ep": 12}

MAX_STEPS = 400_000
"""Bound of every run: a world that does more than this without getting there is a livelock."""

Fault = Callable[[Frame], Sequence[Frame]]
"""What a faulty link makes of one frame: none, itself, itself twice, others."""

WakeFault = Callable[[bytes], Sequence[tuple[bytes, int]]]
"""What becomes of one wake: records that arrive, each so many ns later than it would."""


def memory_of(size: int) -> mmap.mmap:
    """Zeros of which only the pages that are touched cost anything, unlike a bytearray's."""
    return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


class World:
    """Nodes, links and clock.

    Args:
        seed: of every random choice.
        text: configuration.
        latency_us: least and most time a frame takes, microseconds.
        config: one that was not checked, instead of ``text``.
        fabric: how stores reach their target, whatever the configuration says; None: as FABRIC says.
    """

    def __init__(
        self,
        seed: int = 1,
        text: str = SMALL,
        latency_us: tuple[int, int] = (20, 60),
        config: Config | None = None,
        fabric: str | None = None,
    ) -> None:
        self.config = in_fabric(load_text(text, "sim") if config is None else config, fabric or FABRIC)
        self.offload_header = bytes(VNET_HEADER_BYTES) if self.config.netdev.offloads else b""
        self.random = random.Random(seed)
        self.now_ns = 1_000 * SECOND
        self.steps = 0
        self.latency_us = latency_us
        nodes = self.config.node
        self.lease = bytearray(LEASE_BYTES)
        self.dram = {"rc": memory_of(nodes.rc.dram_bytes), "ep": memory_of(nodes.ep.dram_bytes)}
        self.processes: dict[str, Process] = {}
        self.incarnations: Counter[str] = Counter()
        self.delivered: dict[str, list[bytes]] = {"rc": [], "ep": []}
        self.carrier = {"rc": False, "ep": False}
        self.log: list[tuple[int, str, str, dict[str, Any]]] = []
        self.faults: dict[tuple[str, str], Fault] = {}
        """By sender and receiver of messages."""
        self.wake_faults: dict[tuple[str, str], WakeFault] = {}
        """By sender and receiver of wakes."""
        self.frames = 0
        self._sessions: Counter[str] = Counter()
        self._traffic = False
        self._numbers: Counter[str] = Counter()
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._serial = 0
        self._last_arrival: dict[tuple[str, ...], int] = {}
        self.wakes = 0
        self.watch = Watch()
        self._stops: dict[str, tuple[int, int]] = {}
        self._digest = hashlib.blake2b(digest_size=16)

    # services

    def start(self, *names: str) -> None:
        """Start services; all five when none is named."""
        for name in names or SERVICES:
            self.incarnations[name] += 1
            process = Process(self, name, self.incarnations[name], self._make(name))
            self.processes[name] = process
            process.arm()

    def _make(self, name: str) -> Device:
        config = self.config
        node = NODE_OF[name]
        base = config.profile.rc.dram_base if node == "rc" else config.profile.endpoint.dram_base
        dram = Window(memoryview(self.dram[node]), base, f"{node}-dram")
        if name == "edma":
            return Edma(config, dram)
        if name == "rc-host":
            return RootComplex(config, dram, MEMORY_IDS[node])
        if name == "epc":
            controller = EndpointController(config, dram, MEMORY_IDS[node])
            controller.start(self.now_ns)
            self.watch.follow_endpoint(controller, dram.span.base + FUNCTION_REGION_BYTES)
            return controller
        maker = RcPeer if name == "peer-rc" else EpPeer
        far = None
        if config.bridge.fabric == "local":
            far = Far(
                self._far_memory(node),
                MEMORY_IDS["ep" if node == "rc" else "rc"],
                Lease(Window(memoryview(self.lease), 0, "lease"), node),
            )
        peer = maker(config, dram, self.incarnations[name], far)
        self.watch.follow(node, peer)
        return peer

    def _far_memory(self, node: str) -> FarMemory:
        """The other node's DRAM, as the peer of ``node`` stores to it."""
        profile, name = self.config.profile, f"peer-{node}"
        other, base = ("ep", profile.endpoint.dram_base) if node == "rc" else ("rc", profile.rc.dram_base)

        def store(offset: int, data: bytes) -> None:
            process = self.processes[name]
            left, for_ns = self._stops.get(node, (0, 0))
            if left == 1:
                self.pause(name, for_ns)
            self._stops[node] = (left - 1, for_ns)
            land = partial(self._land, node, memory, offset, data, self.watch.granted[node], self.epoch)
            if process.is_paused:
                process.suspended.append(land)
            else:
                land()

        memory = FarMemory(memoryview(self.dram[other]), base, f"{other}-dram", store)
        return memory

    def _land(self, node: str, memory: FarMemory, offset: int, data: bytes, granted: int, epoch: int) -> None:
        addr, is_late = memory.span.base + offset, self.epoch != epoch
        self.watch.judge(node, addr, data, granted, is_late=is_late)
        memory.land(offset, data)

    def kill(self, name: str) -> None:
        """End a service at once; what it sent is still under way, what comes for it is lost."""
        if self.processes.pop(name, None) is not None and name.startswith("peer-"):
            self.carrier[NODE_OF[name]] = False
            self.watch.forget(NODE_OF[name])

    def restart(self, name: str, after_ns: int = 30 * MS) -> None:
        """Kill a service; it comes back ``after_ns`` later."""
        self.kill(name)
        self.at(self.now_ns + after_ns, lambda: self.start(name))

    def pause(self, name: str, for_ns: int) -> None:
        """Stop a service as SIGSTOP does; ``for_ns`` later it goes on where it was."""
        process = self.processes[name]
        process.is_paused = True
        self.at(self.now_ns + for_ns, process.resume)

    def stop_in_store(self, node: str, number: int, for_ns: int) -> None:
        """Stop the peer of ``node`` between check and store of its ``number``-th direct store (1..)."""
        self._stops[node] = (number, for_ns)

    def device(self, name: str) -> Any:
        """The model of a running service."""
        return self.processes[name].device

    def next_session(self, counter: str) -> int:
        """As the run folder counts them: up, for ever."""
        self._sessions[counter] += 1
        return self._sessions[counter]

    # links

    def carry(self, src: str, dst: str, frame: Frame) -> None:
        """Put a frame on its way, behind all earlier ones of that direction."""
        self.frames += 1
        self._digest.update(frame[0])
        fault = self.faults.get((src, dst))
        for one in (frame,) if fault is None else fault(frame):
            arrival = self.now_ns + self.random.randint(*self.latency_us) * US
            arrival = max(arrival, self._last_arrival.get((src, dst), 0) + 1)
            self._last_arrival[src, dst] = arrival
            self.at(arrival, partial(self._arrive, src, dst, one))

    def hold_back(self, src: str, dst: str, for_ns: int) -> None:
        """No message of that direction arrives before ``for_ns`` have passed; none is lost."""
        last = self._last_arrival.get((src, dst), 0)
        self._last_arrival[src, dst] = max(last, self.now_ns + for_ns)

    def _arrive(self, src: str, dst: str, frame: Frame) -> None:
        process = self.processes.get(dst)
        if process is not None:
            process.receive(src, frame)

    def wake(self, src: str, dst: str, message: Irq | MemWrite) -> None:
        """Wake a process past the paths: sooner or later than what travels on them."""
        record = encode_wake(SERVICE_BY_LABEL[src], message)
        self.wakes += 1
        self._digest.update(record)
        fault = self.wake_faults.get((src, dst))
        for one, late_ns in ((record, 0),) if fault is None else fault(record):
            arrival = self.now_ns + late_ns + self.random.randint(*self.latency_us) * US
            arrival = max(arrival, self._last_arrival.get((src, dst, "wake"), 0) + 1)
            self._last_arrival[src, dst, "wake"] = arrival
            self.at(arrival, partial(self._wake, dst, one))

    def _wake(self, dst: str, record: bytes) -> None:
        process = self.processes.get(dst)
        if process is not None:
            process.receive_wake(record)

    # time

    def at(self, time_ns: int, action: Callable[[], None]) -> None:
        """Do something at a virtual time."""
        self._serial += 1
        heapq.heappush(self._events, (time_ns, self._serial, action))

    def step(self) -> None:
        """The next event."""
        self.now_ns, _, action = heapq.heappop(self._events)
        self.steps += 1
        action()

    def run_for(self, duration_ns: int) -> None:
        """Let time pass."""
        self.settle(lambda: False, duration_ns, must=False)

    def settle(self, until: Callable[[], object], within_ns: int, must: bool = True) -> int:
        """Go on until ``until()`` holds; how long it took, ns. AssertionError when it never does."""
        begin, last_step = self.now_ns, self.steps + MAX_STEPS
        while not until():
            if not self._events or self._events[0][0] > begin + within_ns:
                self.now_ns = begin + within_ns
                assert not must, f"not there after {within_ns / SECOND} s:\n{self.story()}"
                return within_ns
            assert self.steps < last_step, f"livelock:\n{self.story()}"
            self.step()
        return self.now_ns - begin

    def is_up(self) -> bool:
        """Packets can cross in both directions: all run, both carriers are up, in one link epoch."""
        running = [process for process in self.processes.values() if not process.is_paused]
        if not all(self.carrier.values()) or len(running) != len(SERVICES):
            return False
        epochs = {process.device.snapshot()["link"]["epoch"] for process in running if process.name != "edma"}
        return len(epochs) == 1

    def until_epoch(self, epoch: int, within_ns: int = 3 * SECOND) -> int:
        """Wait until packets can cross in that link epoch or a later one; virtual ns it took."""
        return self.settle(lambda: self.epoch >= epoch and self.is_up(), within_ns)

    def bring_up(self) -> World:
        """Start everything and wait for both carriers."""
        self.start()
        self.settle(self.is_up, 5 * SECOND)
        return self

    # packets

    def send(self, node: str, packet: bytes) -> None:
        """Let the stack of a node send one packet; it is lost when the node's peer is not running."""
        process = self.processes.get(f"peer-{node}")
        if process is not None:
            process.waiting.append(packet)
            process.pump()
            process.arm()

    def exchange(self, count: int, within_ns: int = 5 * SECOND, size: int = 200) -> None:
        """Send ``count`` packets each way and wait until each has arrived once, in order, unchanged."""
        before = {node: len(packets) for node, packets in self.delivered.items()}
        sent = {node: [packet_of(self.random, i, size) for i in range(count)] for node in ("rc", "ep")}
        for packets in zip(*sent.values(), strict=True):
            for node, packet in zip(sent, packets, strict=True):
                self.send(node, packet)

        def all_came() -> bool:
            return all(len(self.delivered[node]) >= before[node] + count for node in sent)

        self.settle(all_came, within_ns)
        assert self.delivered["ep"][before["ep"] :] == sent["rc"]
        assert self.delivered["rc"][before["rc"] :] == sent["ep"]

    def start_traffic(self, every_ns: int = 3 * MS, sizes: tuple[int, ...] = (64, 1500, 9000)) -> None:
        """From now on each node sends a numbered packet every ``every_ns``, until ``stop_traffic``."""
        self._traffic = True

        def tick() -> None:
            for node in ("rc", "ep"):
                self._numbers[node] += 1
                packet = packet_of(self.random, self._numbers[node], self.random.choice(sizes))
                self.send(node, packet)
            if self._traffic:
                self.at(self.now_ns + every_ns, tick)

        tick()

    @property
    def sent(self) -> int:
        """Packets of all traffic so far."""
        return self._numbers.total()

    def stop_traffic(self) -> None:
        """No more packets; those under way arrive or are lost."""
        self._traffic = False
        for process in self.processes.values():
            process.waiting.clear()
        self.run_for(100 * MS)

    def check_history(self) -> int:
        """Every packet came undamaged, at most once and in order; how many came. Forgets them."""
        count = 0
        for node, packets in self.delivered.items():
            numbers = [number_in(packet) for packet in packets]
            assert numbers == sorted(set(numbers)), f"{node}: misordered or repeated"
            count += len(numbers)
            packets.clear()
        return count

    # what was seen

    def note(self, service: str, event: str, **keys: Any) -> None:
        """Keep a log event, which must be one of the table."""
        assert set(keys) == set(EVENTS[event].keys), f"{event}: {sorted(keys)}"
        self.log.append((self.now_ns, service, event, keys))

    def events(self, name: str, service: str | None = None) -> list[Mapping[str, Any]]:
        """Keys of every event of that name."""
        return [keys for _, who, event, keys in self.log if event == name and service in {None, who}]

    def story(self, last: int = 60) -> str:
        """The end of the log, for a failing test."""
        rows = self.log[-last:]
        return "\n".join(f"{at / SECOND:.6f} {who} {event} {keys}" for at, who, event, keys in rows)

    @property
    def epoch(self) -> int:
        """Link epoch, as the host has it; 0 while the link is down."""
        process = self.processes.get("rc-host")
        return 0 if process is None else process.device.epoch  # type: ignore[attr-defined]

    @property
    def digest(self) -> str:
        """Hash of every frame header that was sent, times included."""
        return self._digest.hexdigest()


def packet_of(rng: random.Random, number: int, size: int) -> bytes:
    """An IPv4-like packet that carries its number and a checksum of itself; 32..65510 bytes."""
    head = bytes((0x45, 0, 0, 0)) + number.to_bytes(8, "little") + rng.randbytes(size - 28)
    return head + hashlib.blake2b(head, digest_size=16).digest()


def number_in(packet: bytes) -> int:
    """Number of an undamaged packet; AssertionError for a damaged one."""
    assert hashlib.blake2b(packet[:-16], digest_size=16).digest() == packet[-16:], "packet was damaged"
    return int.from_bytes(packet[4:12], "little")
