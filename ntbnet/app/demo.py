"""``ntbnet demo``: a bridge of its own, pinged and loaded both ways, then removed.

It ends with the latency of that bridge beside that of a second one whose doorbells are polled, and
beside the published pair; each ping-pong has to prove by the backend's counter that it used its backend.
"""

from __future__ import annotations

import asyncio
import re
import signal
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from rich.console import Console
from rich.table import Table

from ntbnet.app.bench_backends import (
    POLLED,
    backend_configs,
    complaints,
    difference,
    loss_complaints,
    settled_counts,
)
from ntbnet.app.bench_latencies import PUBLISHED, Latencies
from ntbnet.app.bridge import Bridge
from ntbnet.app.bringup import running, unless_stopped
from ntbnet.app.interrupts import interrupt_lines
from ntbnet.app.ping_output import answers, pinged
from ntbnet.app.pingpong import Trips, ping_pong
from ntbnet.app.supervisor import Supervisor
from ntbnet.app.transfer import transfer
from ntbnet.config import Config
from ntbnet.edge.netns import inside
from ntbnet.edge.node import spec_from
from ntbnet.edge.rundir import RunDir
from ntbnet.errors import SetupError

NAME = "ntbnet-demo"
PING_INTERVAL_S = 0.05
FIRST_REPLY_TIMEOUT_S = 15.0
LAST_REPLY_TIMEOUT_S = 5
LATENCY_S = 0.7
"""Of each ping-pong: enough for some sixty polled round trips."""
WARM_UP_S = 0.1
_TIMES = re.compile(r"= ([\d.]+)/([\d.]+)/([\d.]+)/")


async def run(config: Config, count: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Start, ping, stop; what ``--json`` prints.

    Raises:
        SetupError: the bridge cannot be started, or a demo runs already.
    """
    task = asyncio.current_task()
    assert task is not None
    # as Ctrl-C does by itself: leave through every `finally` below
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    started_s = time.monotonic()
    say("making two nodes and starting five services")
    async with _bridge_with_traffic(config, say) as (bridge, supervisor):
        startup_s = time.monotonic() - started_s
        say(f"first ping reply after {startup_s:.2f} s")
        pings = []
        for source in ("rc", "ep"):
            for family in ("ipv4", "ipv6"):
                say(f"pinging from {source} over {family}")
                pings.append(await unless_stopped(supervisor, _ping(config, source, family, count)))
        transfers = []
        for source, peer in (("ep", "rc"), ("rc", "ep")):
            say(f"sending 64 MiB from {source} over TCP")
            namespaces = (spec_from(config, NAME, source).netns, spec_from(config, NAME, peer).netns)
            sending = transfer(source, namespaces, _address(config, source, "ipv4"))
            transfers.append(await unless_stopped(supervisor, sending))
        status = await asyncio.get_running_loop().run_in_executor(None, bridge.status)
        latencies = [await _latency(config, status["backend"], bridge, supervisor, say)]
        say("stopping")
    if status["backend"] != POLLED:
        say("starting again with polled doorbells")
        polled = backend_configs(config)[POLLED]
        async with _bridge_with_traffic(polled, say) as (bridge, supervisor):
            latencies.insert(0, await _latency(polled, POLLED, bridge, supervisor, say))
            say("stopping")
    return {
        "ok": all(ping["received"] == ping["sent"] for ping in pings)
        and all(one["sha256_equal"] for one in transfers),
        "fabric": status["fabric"],
        "backend": status["backend"],
        "backend_reason": status["backend_reason"],
        "backend_ep_to_rc": status["backend_ep_to_rc"],
        "backend_ep_to_rc_reason": status["backend_ep_to_rc_reason"],
        "profile": config.profile.name,
        "startup_s": round(startup_s, 3),
        "ping": pings,
        "transfer": transfers,
        "latency": comparison(latencies),
        "windows": status["windows"],
    }


@asynccontextmanager
async def _bridge_with_traffic(
    config: Config, say: Callable[[str], None]
) -> AsyncIterator[tuple[Bridge, Supervisor]]:
    """A bridge runs inside, and a ping has crossed it."""
    bridge = Bridge(RunDir(config.run.dir, NAME), config)
    supervisor = Supervisor(config, bridge.run, None, say)
    async with running(bridge, supervisor):
        await unless_stopped(supervisor, _first_reply(config))
        yield bridge, supervisor


async def _latency(
    config: Config, backend: str, bridge: Bridge, supervisor: Supervisor, say: Callable[[str], None]
) -> dict[str, Any]:
    """A short UDP ping-pong RC to EP, half of a round trip in microseconds; why it does not count, if so."""
    say(f"UDP ping-pong from rc, {backend}")
    namespaces = (spec_from(config, NAME, "rc").netns, spec_from(config, NAME, "ep").netns)
    play = partial(
        ping_pong, namespaces, _address(config, "rc", "ipv4"), seconds=LATENCY_S, warm_up_s=WARM_UP_S
    )

    def measure() -> tuple[Trips, dict[str, int]]:
        before = settled_counts(bridge.status)
        trips = play()
        return trips, difference(before, settled_counts(bridge.status))

    trips, moved = await unless_stopped(supervisor, asyncio.get_running_loop().run_in_executor(None, measure))
    losses = {
        "dropped": trips.dropped,
        "duplicated": trips.duplicated,
        "out_of_order": trips.out_of_order,
    }
    return {
        "backend": backend,
        **Latencies(trips.latencies_us()).figures(),
        **losses,
        "messages": trips.sent,
        "backend_counts": moved,
        "invalid": loss_complaints(backend, **losses) + complaints(backend, moved, trips.sent),
    }


def comparison(latencies: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """``latency`` of the result; its ratio is None unless there are two runs and both count."""
    invalid = [complaint for one in latencies for complaint in one["invalid"]]
    ratio = None
    if len(latencies) > 1 and not invalid:
        ratio = round(latencies[0]["avg_us"] / latencies[1]["avg_us"], 3)
    return {
        "tool": "built-in",
        "results": list(latencies),
        "ratio_polled_to_interrupt": ratio,
        "invalid": invalid,
        "published": list(PUBLISHED),
    }


def _address(config: Config, source: str, family: str) -> str:
    peer = config.node.ep if source == "rc" else config.node.rc
    address: str = getattr(peer, family).partition("/")[0]
    return address


async def _run_ping(config: Config, source: str, *arguments: str) -> tuple[int, str]:
    # the child inherits the namespace it is started in
    with inside(spec_from(config, NAME, source).netns):
        process = await asyncio.create_subprocess_exec(
            "ping", *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
    output, _ = await process.communicate()
    return process.returncode or 0, output.decode(errors="replace")


async def _first_reply(config: Config) -> None:
    """Return once a ping crosses; asks again as long as the link is not up yet."""
    try:
        async with asyncio.timeout(FIRST_REPLY_TIMEOUT_S):
            while True:
                address = _address(config, "rc", "ipv4")
                # with a deadline, -c counts replies: ping goes on until one came
                code, _ = await _run_ping(config, "rc", "-q", "-i", "0.02", "-c", "1", "-w", "1", address)
                if code == 0:
                    return
    except TimeoutError:
        raise SetupError(f"no ping reply in {FIRST_REPLY_TIMEOUT_S:.0f} s") from None


async def _ping(config: Config, source: str, family: str, count: int) -> dict[str, Any]:
    address = _address(config, source, family)
    # without a deadline, ping waits for the last reply only twice as long as the slowest one took
    deadline_s = str(int(count * PING_INTERVAL_S) + LAST_REPLY_TIMEOUT_S)
    options = ("-n", "-i", str(PING_INTERVAL_S), "-c", str(count), "-w", deadline_s)
    _, output = await _run_ping(config, source, *options, address)
    sent, answered, times = pinged(output, count), len(answers(output)), _TIMES.search(output)
    low, average, high = (float(value) for value in times.groups()) if times else (None, None, None)
    return {
        "from": source,
        "family": family,
        "sent": sent,
        "received": answered,
        "rtt_ms": {"min": low, "avg": average, "max": high},
    }


def show(result: dict[str, Any], console: Console) -> None:
    """The latency table, for people."""
    say = partial(console.print, markup=False, soft_wrap=True)
    say()
    say("  rc: tun ntb0 -- peer-rc -- rc-host == PCIe == epc/edma -- peer-ep -- tun ntb0 :ep")
    say(f"  profile {result['profile']}, fabric {result['fabric']}, up in {result['startup_s']:.2f} s")
    for line in interrupt_lines(result):
        say(f"  {line}")
    say()
    table = Table("from", "to", "family", "sent", "received", "loss", "rtt min", "avg", "max ms", box=None)
    for ping in result["ping"]:
        rtt = [("-" if value is None else f"{value:.2f}") for value in ping["rtt_ms"].values()]
        table.add_row(
            ping["from"],
            "ep" if ping["from"] == "rc" else "rc",
            ping["family"],
            str(ping["sent"]),
            str(ping["received"]),
            f"{100 * (1 - ping['received'] / ping['sent']):.0f} %" if ping["sent"] else "-",
            *rtt,
        )
    say(table)
    say()
    for one in result["transfer"]:
        verdict = "SHA-256 equal" if one["sha256_equal"] else f"FAILED: {one['error'] or 'digests differ'}"
        speed = "-" if one["gbit_s"] is None else f"{one['gbit_s']:.3f} Gbit/s"
        say(f"  TCP from {one['from']}: {one['bytes'] >> 20} MiB, {speed}, {verdict}")
    say()
    show_latency(result["latency"], console)
    say()
    say(f"  {'every packet crossed' if result['ok'] else 'PACKETS OR BYTES WERE LOST'}")


def show_latency(latency: dict[str, Any], console: Console) -> None:
    """Ours beside the board's, and what does not count."""
    console.print(_latency_table(latency), markup=False, soft_wrap=True)
    for complaint in latency["invalid"]:
        console.print(f"  INVALID: {complaint}", markup=False, soft_wrap=True)


def _latency_table(latency: dict[str, Any]) -> Table:
    table = Table("half a round trip, us", "avg", "p50", "p99", "n", "published avg", box=None)
    published = {row["backend"]: f"{row['avg_us']:.3f}" for row in latency["published"]}
    for row in latency["results"]:
        figures = (f"{row[key]:.1f}" for key in ("avg_us", "p50_us", "p99_us"))
        beside = published.get(row["backend"], "-")
        name = f"{row['backend']}{' (INVALID)' if row['invalid'] else ''}"
        table.add_row(name, *figures, str(row["samples"]), beside)
    ratio = latency["ratio_polled_to_interrupt"]
    if ratio is not None:
        first, second = (row["avg_us"] for row in latency["published"])
        table.add_row("polled / interrupt", f"{ratio:.1f}", "", "", "", f"{first / second:.1f}")
    return table
