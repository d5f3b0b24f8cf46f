"""Fabrics, and a profile's interrupt backends: how to get exactly one, and whether it is what was used."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_type_hints

from ntbnet.app.stop_request import pause
from ntbnet.config import Config, load_text, to_toml
from ntbnet.edge.config_file import read_profile
from ntbnet.errors import ConfigError, SetupError
from ntbnet.schema import Choice
from ntbnet.sections import Bridge

SETTLE_TIMEOUT_S = 2.0
LOOK_INTERVAL_S = 0.02
"""Between two looks at counters; longer than a period of the doorbell poll."""
EXTRA_FRAMES = 64
"""Most frames beside the messages of a run: sockperf's uncounted first ones, and IPv6's own."""

POLLED, EDMA = "doorbell", "dw-edma-testirq"
TRIGGERS = {
    POLLED: "doorbell_polls_hit",
    EDMA: "test_interrupts",
    "msi": "local_msis",
}
"""By backend RC->EP, the counter that moves with each ring of it."""
TO_RC = "msis"
"""The counter that moves with each ring EP->RC: vectors of the host, whoever they were handed to."""
MERGED = "wakes_merged"
"""Rings EP->RC that met an equal one which had not left yet, and are told with it."""
FOUND = "found_by_slow_look"
"""Frames at either end whose interrupt was lost: they waited for a look, and say nothing of a backend."""


def fabrics() -> tuple[str, ...]:
    """The fabrics of this version, as the configuration allows them."""
    (rule,) = get_type_hints(Bridge, include_extras=True)["fabric"].__metadata__
    assert isinstance(rule, Choice)
    return rule.words


def with_fabric(config: Config, fabric: str) -> Config:
    """``config`` on another fabric, one of ``fabrics()``."""
    return replace(config, bridge=replace(config.bridge, fabric=fabric))


def chosen(wanted: Sequence[str], available: Sequence[str], what: str) -> list[str]:
    """``wanted``, or everything that there is when nothing is; in the order of ``available``.

    Raises:
        ConfigError: one of them is not available; names those that are.
    """
    unknown = [word for word in wanted if word not in available]
    if unknown:
        raise ConfigError(f"{what} {unknown[0]}: available are {', '.join(available)}")
    return [word for word in available if not wanted or word in wanted]


def backend_configs(config: Config) -> dict[str, Config]:
    """The backends that ``config`` and its profile allow RC->EP, each with a configuration that gives it.

    What decides is where the window for interrupts leads; a layout without one has doorbells only.
    """
    found = {POLLED: _changed(config, config.ntb.mw2_target, use_intr="false")}
    allowed = {EDMA: "edma"}
    if config.profile.endpoint.ep_msi_page:
        allowed["msi"] = "msi"
    for backend, target in allowed.items():
        if config.ntb.mw2_target != "none":
            with contextlib.suppress(ConfigError):  # a layout that cannot be has no such backend
                found[backend] = _changed(config, target, use_intr="true")
    return found


def _changed(config: Config, target: str, *, use_intr: str) -> Config:
    ntb = replace(config.ntb, mw2_target=target)
    transport = replace(config.transport, use_intr=use_intr, use_msi="auto", dw_edma=True)
    text = to_toml(replace(config, ntb=ntb, transport=transport))
    return load_text(text, "bench", read_profile)


def write_config(config: Config, folder: Path) -> str:
    """Path of a file in ``folder`` with the whole of ``config``; another call replaces it."""
    settings = (config.bridge.fabric, config.transport.use_intr, config.ntb.mw2_target, config.netdev.mtu)
    path = folder / f"{'-'.join(map(str, settings))}.toml"
    path.write_text(to_toml(config), encoding="utf-8")
    return str(path)


def backend_counts(status: Mapping[str, Any]) -> dict[str, int]:
    """Frames and rings each way, and every trigger's counter, from a bridge's status.

    Raises:
        SetupError: a service did not answer.
    """
    counters = {
        service["name"]: {**service["counters"], **service["stores"], **service["wakes"]}
        for service in status["services"]
    }
    silent = [service["name"] for service in status["services"] if service["state"] != "up"]
    if silent:
        raise SetupError(f"{', '.join(silent)} did not answer while being measured")
    queues = status["link"]["queues"]
    return {
        "frames_rc_to_ep": sum(queue["rc"].get("tx_pkts", 0) for queue in queues),
        "rings_rc_to_ep": sum(queue["rc"].get("rings", 0) for queue in queues),
        "arrived_at_ep": sum(queue["ep"].get("rx_pkts", 0) for queue in queues),
        "frames_ep_to_rc": sum(queue["ep"].get("tx_pkts", 0) for queue in queues),
        "rings_ep_to_rc": sum(queue["ep"].get("rings", 0) for queue in queues),
        "arrived_at_rc": sum(queue["rc"].get("rx_pkts", 0) for queue in queues),
        "doorbell_polls_hit": counters["epc"].get("doorbell_polls_hit", 0),
        "test_interrupts": counters["edma"].get("test_interrupts", 0),
        "local_msis": counters["epc"].get("local_msis", 0),
        # by way of the host, or straight to its driver (as a message or a wake): each is counted once
        TO_RC: counters["rc-host"].get("msis", 0) + counters["peer-rc"].get("msis", 0),
        # before it left, or where it arrived: at the endpoint as a message, at the host's driver as a wake;
        # what rc-host tells the driver was counted as an MSI already
        MERGED: counters["peer-ep"].get("wakes_merged", 0)
        + counters["epc"].get("interrupts_collapsed_from_peer-ep", 0)
        + counters["peer-rc"].get("interrupts_collapsed_from_peer-ep", 0),
        FOUND: sum(queue[end].get("found", 0) for queue in queues for end in ("rc", "ep")),
    }


def settled_counts(
    status: Callable[[], Mapping[str, Any]], wait: Callable[[float], None] = pause
) -> dict[str, int]:
    """Counters once nothing moves any more: services answer one after the other, not in one instant.

    Args:
        status: asks the bridge.
        wait: seconds, between questions to other processes.
    """
    deadline = time.monotonic() + SETTLE_TIMEOUT_S
    counts = backend_counts(status())
    while True:
        wait(LOOK_INTERVAL_S)
        before, counts = counts, backend_counts(status())
        if counts == before or time.monotonic() > deadline:
            return counts


def difference(before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, int]:
    """What each counter moved by."""
    return {name: after[name] - before[name] for name in after}


def loss_complaints(name: str, dropped: int, duplicated: int, out_of_order: int) -> list[str]:
    """Why a ping-pong over ``name`` does not count: a message was lost, came twice or late; else []."""
    if not (dropped or duplicated or out_of_order):
        return []
    return [f"{name}: {dropped} messages dropped, {duplicated} duplicated, {out_of_order} out of order"]


def crossing_complaints(backend: str, counts: Mapping[str, int]) -> list[str]:
    """Why counters contradict each other, or that ``backend`` rang RC->EP, it alone; [] when they do not.

    Every frame that was sent arrived. The sender rings once for a burst, so never more often than it sends.
    What it rang with has counted each ring; a poll finds one that was rung once more before it as one. No
    frame had to wait for a look.

    Args:
        backend: one of TRIGGERS.
        counts: what ``backend_counts`` moved by during the run.
    """
    used = TRIGGERS[backend]
    rung, answers_rung = counts["rings_rc_to_ep"], counts["rings_ep_to_rc"]
    found = []
    for way, sent, arrived, rings in (
        ("RC to EP", counts["frames_rc_to_ep"], counts["arrived_at_ep"], rung),
        ("EP to RC", counts["frames_ep_to_rc"], counts["arrived_at_rc"], answers_rung),
    ):
        if arrived != sent:
            found.append(f"{sent} frames from {way}, {arrived} arrived")
        if not bool(sent) <= rings <= sent:
            found.append(f"{sent} frames from {way}, rung {rings} times")
    if backend == POLLED and not bool(rung) <= counts[used] <= rung:
        found.append(f"rung {rung} times from RC to EP, but {counts[used]} polls found it ({used})")
    if backend != POLLED and counts[used] != rung:
        found.append(f"rung {rung} times from RC to EP, but {counts[used]} counted ({used})")
    if counts[TO_RC] + counts[MERGED] != answers_rung:
        merged = f"{counts[TO_RC]} counted ({TO_RC}) and {counts[MERGED]} merged ({MERGED})"
        found.append(f"rung {answers_rung} times from EP to RC, but {merged}")
    others = {name: counts[name] for name in TRIGGERS.values() if name != used}
    found += [f"another trigger was used: {name} {count}" for name, count in others.items() if count]
    if counts[FOUND]:
        found.append(f"{counts[FOUND]} frames were delivered by the slow look ({FOUND})")
    return found


def complaints(backend: str, counts: Mapping[str, int], messages: int) -> list[str]:
    """Why counters do not bear out that ``messages`` crossed RC->EP by ``backend``; [] when they do.

    Each message is one ring that a poll finds by itself, and each answer one MSI: no two messages of a
    ping-pong are of one burst. Other frames may be rung together with one of them.

    Args:
        backend: one of TRIGGERS.
        counts: what ``backend_counts`` moved by during the run.
        messages: sent by the measuring program.
    """
    frames, rung = counts["frames_rc_to_ep"], counts["rings_rc_to_ep"]
    answers, answers_rung = counts["frames_ep_to_rc"], counts["rings_ep_to_rc"]
    found = []
    if not messages <= frames <= messages + EXTRA_FRAMES:
        found.append(f"{messages} messages, but {frames} frames from RC to EP")
    elif rung < messages:
        found.append(f"{messages} messages, but rung {rung} times from RC to EP")
    elif backend == POLLED and counts[TRIGGERS[POLLED]] < messages:
        found.append(f"{messages} messages, but {counts[TRIGGERS[POLLED]]} polls found the doorbell")
    if answers_rung < min(messages, answers):
        found.append(f"{messages} messages, but rung {answers_rung} times from EP to RC")
    found += crossing_complaints(backend, counts)
    return [f"{backend}: {text}" for text in found]
