"""Deaths of services in a history: each has its fault, each kill its death; who is stopped is found hung."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from ntbnet import topology
from ntbnet.app.chaos_history import FaultRecord, LoggedEvent
from ntbnet.app.chaos_windows import Window
from ntbnet.app.child import SILENT_S
from ntbnet.devices.crash_points import CRASH_POINTS

NOTICE_NS = 1_000_000_000
"""The supervisor notices a death, or writes it down, at most that late."""
SLACK_NS = 50_000_000
"""The time of a crash is taken from a file's."""
DIED, HUNG, STARTED = "supervisor.service_died", "supervisor.service_hung", "supervisor.service_started"
SHORT_NS = int((SILENT_S["up"] - 1) * 1e9)
"""Who is stopped for less cannot be found hung: a sign of life is half a second old by then at most."""
ONE_DEATH = frozenset({"kill", "stop"})
"""Kinds of which a service dies once; a crash that is met on the way up may come again, and memory that is
lost takes its other users along."""


def judge_services(
    events: Sequence[LoggedEvent], windows: Sequence[Window], *, loses_memory: bool, must_hang: bool
) -> Iterator[str]:
    """What is wrong with the deaths, in words.

    Args:
        events: of the supervisor, in the order of time.
        windows: of the faults that the nemesis did, in the order of time.
        loses_memory: the fault layer removes memory, whose users are made anew.
        must_hang: every stop has to be noticed, and its process replaced.
    """
    claimed: Counter[tuple[int, str]] = Counter()
    for event in events:
        if event.event == HUNG and not any(
            _may_hang(fault) and event.name in fault.services and _is_in(event.time_ns, window)
            for window in windows
            for fault in window[2:]
        ):
            yield f"{event.name} was found hung, though nobody had stopped it"
        if event.event == DIED:
            fault = _reason(event, windows, claimed)
            if fault is not None:
                claimed[fault.number, event.name] += 1
            elif not loses_memory:
                yield f"{event.name} died, though nobody had killed it"
    for _, _, fault in windows:
        for service in fault.services:
            if fault.kind in {"kill", "unlink"} and not claimed[fault.number, service]:
                yield f"nobody noticed that {service} was killed (fault {fault.number})"
            if fault.kind == "stop" and must_hang and not _is_replaced(events, service, fault):
                yield f"{service} was stopped (fault {fault.number}), but not found hung, killed and replaced"


def _is_in(time_ns: int, window: Window) -> bool:
    return window[0] - SLACK_NS <= time_ns <= window[1] + NOTICE_NS


def _reason(
    event: LoggedEvent, windows: Sequence[Window], claimed: Counter[tuple[int, str]]
) -> FaultRecord | None:
    """The latest fault that explains a death and is not the reason of another one."""
    for window in reversed(windows):
        fault = window[2]
        if (
            _is_in(event.time_ns, window)
            and event.name in _victims(fault)
            and not (fault.kind in ONE_DEATH and claimed[fault.number, event.name])
        ):
            return fault
    return None


def _victims(fault: FaultRecord) -> frozenset[str]:
    """Who may die of a fault."""
    if fault.kind == "unlink":
        return frozenset(topology.SERVICES)  # memory is made anew, and whoever maps it, on either node
    if fault.kind == "crash":
        after = CRASH_POINTS[point].after if (point := fault.note.rpartition(" ")[2]) in CRASH_POINTS else ""
        return frozenset({*fault.services, after} - {""})
    return frozenset(fault.services if fault.kind == "kill" or _may_hang(fault) else ())


def _may_hang(fault: FaultRecord) -> bool:
    """True for a stop that lasted long enough to be found hung, and replaced."""
    return fault.kind == "stop" and fault.until_ns - fault.at_ns >= SHORT_NS


def _is_replaced(events: Sequence[LoggedEvent], service: str, fault: FaultRecord) -> bool:
    """True when a stopped service was found hung, died of it and was started again, in that order."""
    wanted = [HUNG, DIED, STARTED]
    for event in events:
        in_time = fault.at_ns <= event.time_ns <= fault.until_ns + NOTICE_NS
        if wanted and in_time and (event.event, event.name) == (wanted[0], service):
            wanted.pop(0)
    return not wanted


def noticed_and_replaced(events: Sequence[LoggedEvent], fault: FaultRecord) -> tuple[int | None, int | None]:
    """When the supervisor noticed the first victim of a fault, and had started the last one's replacement.

    Args:
        events: of the supervisor, in the order of time.
        fault: what was done.

    Returns:
        Monotonic times, None for what is not in ``events``.
    """
    noticed_ns: int | None = None
    replaced_ns: dict[str, int] = {}
    for event in events:
        if event.time_ns < fault.at_ns or event.name not in fault.services:
            continue
        if event.event in {DIED, HUNG}:
            noticed_ns = event.time_ns if noticed_ns is None else noticed_ns
        elif event.event == STARTED and noticed_ns is not None:
            replaced_ns.setdefault(event.name, event.time_ns)
    is_whole = fault.services and len(replaced_ns) == len(fault.services)
    return noticed_ns, max(replaced_ns.values()) if is_whole else None
