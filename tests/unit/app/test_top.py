"""The live view without a terminal: what is on its screen, and what its keys do."""

from __future__ import annotations

import asyncio
import html
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot

from ntbnet.app.top import Top
from ntbnet.app.top_actions import Actions
from ntbnet.app.top_snapshot import Snapshot
from ntbnet.edge.process import ProcessRecord
from ntbnet.errors import SetupError
from tests.unit.app.top_snapshots import event, gone, snapshot, status, under_load

SCREENS = Path(__file__).resolve().parents[2] / "golden" / "top"
RECORD = ProcessRecord(4001, 77)
FAR_S = 3600.0


class FakeActions(Actions):
    """Notes down what the keys ask for."""

    def __init__(self, record: ProcessRecord | None = RECORD, problem: str = "") -> None:
        self.done: list[tuple[Any, ...]] = []
        self.record, self.problem = record, problem
        self.stopped = self.has_trace = False
        self.acted = asyncio.Event()

    def process(self, service: str) -> ProcessRecord | None:
        return self.record

    def is_stopped(self, record: ProcessRecord) -> bool:
        return self.stopped

    def would_lose_trace(self) -> bool:
        return self.has_trace

    def _note(self, *what: Any) -> str:
        self.done.append(what)
        if self.problem:
            raise SetupError(self.problem)
        return f"done: {what[-1]}"

    def send(self, service: str, record: ProcessRecord, number: signal.Signals) -> str:
        return self._note(service, record.pid, number.name)

    def flap(self) -> str:
        return self._note("flap")

    def toggle_trace(self) -> str:
        return self._note("trace")


class Looks:
    """Snapshots one after the other; the last one again and again."""

    def __init__(self, *snapshots: Snapshot) -> None:
        self.left = list(snapshots)
        self.taken = 0

    def __call__(self) -> Snapshot:
        self.taken += 1
        return self.left.pop(0) if len(self.left) > 1 else self.left[0]


def screen_text(app: Top) -> str:
    """What is on the screen, as lines without trailing blanks; from the picture that the app exports."""
    picture = app.export_screenshot()
    found = re.findall(
        r'<text class="[^"]*-r\d+" x="([\d.]+)" y="([\d.]+)" textLength="([\d.]+)"[^>]*>(.*?)</text>', picture
    )
    rows: dict[float, dict[int, str]] = {}
    for x, y, length, escaped in found:
        text = html.unescape(escaped).replace("\xa0", " ").rstrip("\n")
        if text:
            column = round(float(x) / (float(length) / len(text)))
            rows.setdefault(float(y), {}).update(enumerate(text, column))
    lines = [
        "".join(row.get(at, " ") for at in range(max(row) + 1)).rstrip() for _, row in sorted(rows.items())
    ]
    return "\n".join(lines) + "\n"


async def until(pilot: Pilot[None], condition: Callable[[], bool], what: str) -> None:
    """Let the app work until that is so."""
    async with asyncio.timeout(10):
        while not condition():
            await pilot.pause(0.005)
    assert condition(), what


async def looked(pilot: Pilot[None], app: Top, times: int) -> None:
    """The app has taken and drawn that many looks."""
    for number in range(1, times + 1):
        await until(pilot, lambda number=number: app.looks >= number, "look")  # type: ignore[misc] # bound now
        if number < times:
            await pilot.press("r")
    await pilot.pause()


async def screen_after(
    looks: Sequence[Snapshot], keys: Sequence[str] = (), size: tuple[int, int] = (80, 24)
) -> str:
    """The screen after those looks, then those keys."""
    taken = Looks(*looks)
    app = Top(taken, FakeActions(), FAR_S)
    async with app.run_test(size=size) as pilot:
        await looked(pilot, app, len(looks))
        await pilot.press(*keys)
        await pilot.pause()
        return screen_text(app)


def silent() -> Snapshot:
    """A look while a service hangs and the link is down."""
    hung = status()
    hung.update(state="degraded")
    hung["link"].update(state="down")
    hung["services"][1].update(state="silent", uptime_s=None)
    return snapshot(3, status=hung, events=[event(9, "epc", "path.changed", up=False, reason="silence")])


def traced() -> Snapshot:
    """A look while a trace runs, at two queues."""
    both = status()
    both["link"]["queues"].append({**both["link"]["queues"][0], "queue": 1, "state": "down"})
    taken = {"rc": [100_000, 150_000, 900_000], "ep": [5_988_000]}
    return snapshot(2, status=both, is_traced=True, latencies_ns=taken)


SHOWN: dict[str, tuple[Sequence[Snapshot], Sequence[str], tuple[int, int]]] = {
    "load": ([snapshot(), under_load()], ["down", "down"], (80, 24)),
    "wide": ([snapshot(), under_load()], [], (120, 36)),
    "silent": ([snapshot(), silent()], [], (80, 24)),
    "traced": ([snapshot(), traced()], [], (80, 24)),
    "gone": ([snapshot(), gone()], [], (80, 24)),
    "question": ([snapshot()], ["down", "k"], (80, 24)),
    "help": ([snapshot()], ["question_mark"], (80, 24)),
}


@pytest.mark.parametrize("name", SHOWN)
async def test_screen_is_as_it_was_accepted(name: str, tmp_path: Path) -> None:
    """To accept another one, look at the file that a failure names and copy it to tests/golden/top."""
    shown = await screen_after(*SHOWN[name])

    actual = tmp_path / f"{name}.txt"
    actual.write_text(shown, encoding="utf-8")
    assert shown == (SCREENS / f"{name}.txt").read_text(encoding="utf-8"), f"see {actual}"


async def test_long_events_are_cut_and_the_newest_is_there() -> None:
    reason = "the service said a great deal about it " * 4
    events = [event(second, "epc", "path.changed", number=second, reason=reason) for second in range(60)]

    lines = (await screen_after([snapshot(events=events)])).splitlines()

    times = [line.split()[0] for line in lines if "path.changed" in line]
    assert times[-1] == "12:00:59.000"
    assert times == sorted(times)
    assert all(line.endswith("…") for line in lines if "path.changed" in line)


async def act(actions: FakeActions, keys: Sequence[str], look: Snapshot | None = None, said: str = "") -> str:
    """Press keys; the screen once ``said`` is on it."""
    looks = Looks(look or snapshot())
    app = Top(looks, actions, FAR_S)
    async with app.run_test(size=(100, 30), notifications=True) as pilot:
        await looked(pilot, app, 1)
        await pilot.press(*keys)
        await until(pilot, lambda: said in screen_text(app), said)
        return screen_text(app)


async def test_kill_asks_and_y_kills_the_marked_service() -> None:
    actions = FakeActions()

    await act(actions, ["down", "k", "y"], said="done: SIGKILL")

    assert actions.done == [("epc", 4001, "SIGKILL")]


@pytest.mark.parametrize("answer", ["n", "escape", "q"])
async def test_nothing_is_killed_without_a_yes(answer: str) -> None:
    actions = FakeActions()

    screen = await act(actions, ["k", answer], said="▶ rc-host")

    assert actions.done == []
    assert "SIGKILL" not in screen


async def test_stop_asks_and_a_stopped_one_goes_on_without_asking() -> None:
    actions = FakeActions()
    await act(actions, ["s", "y"], said="done: SIGSTOP")
    actions.stopped = True

    await act(actions, ["s"], said="done: SIGCONT")

    assert [what[2] for what in actions.done] == ["SIGSTOP", "SIGCONT"]


async def test_flap_asks() -> None:
    actions = FakeActions()

    await act(actions, ["l"], said="Take the link down on both nodes")
    assert actions.done == []
    await act(actions, ["l", "y"], said="done: flap")

    assert actions.done == [("flap",)]


async def test_link_that_is_down_by_command_comes_up_without_asking() -> None:
    actions, by_command = FakeActions(), status()
    by_command["link"]["wanted"]["ep"] = False

    await act(actions, ["l"], snapshot(status=by_command), said="done: flap")

    assert actions.done == [("flap",)]


async def test_trace_asks_only_when_an_earlier_one_is_lost() -> None:
    actions = FakeActions()
    await act(actions, ["t"], said="done: trace")
    actions.has_trace = True

    await act(actions, ["t"], said="is removed")

    assert actions.done == [("trace",)]


async def test_failure_is_said_and_the_view_goes_on() -> None:
    screen = await act(
        FakeActions(problem="edma belongs to another user"), ["k", "y"], said="belongs to another"
    )

    assert "▶ rc-host" in screen


async def test_a_look_that_fails_is_said_and_the_next_one_is_shown() -> None:
    looks = Looks(snapshot())
    problems = [SetupError("run folder is somebody else's"), OSError(24, "Too many open files")]

    def look() -> Snapshot:
        if problems:
            raise problems.pop(0)
        return looks()

    app = Top(look, FakeActions(), FAR_S)
    async with app.run_test(size=(100, 30)) as pilot:
        await until(pilot, lambda: app.looks == 1, "first look")
        assert "this look failed: run folder is somebody else's" in screen_text(app)
        await pilot.press("r")
        await until(pilot, lambda: app.looks == 2, "second look")
        assert "Too many open files" in screen_text(app)
        await pilot.press("r")
        await until(pilot, lambda: app.looks == 3, "third look")
        assert "this look failed" not in screen_text(app)


async def test_no_process_is_said() -> None:
    actions = FakeActions(record=None)

    await act(actions, ["k"], said="no process is rc-host now")

    assert actions.done == []


async def test_paused_view_takes_no_looks() -> None:
    looks = Looks(snapshot())
    app = Top(looks, FakeActions(), FAR_S)
    async with app.run_test(size=(80, 24)) as pilot:
        await looked(pilot, app, 1)
        await pilot.press("p", "r", "r")
        await until(pilot, lambda: "PAUSED" in screen_text(app), "paused")
        taken = looks.taken

        await pilot.press("p")

        await until(pilot, lambda: looks.taken == taken + 1, "look after the pause")
    assert taken == 1


async def test_q_ends_it() -> None:
    app = Top(Looks(snapshot()), FakeActions(), FAR_S)
    async with app.run_test() as pilot:
        await pilot.press("q")
    assert app.return_code == 0


def without(module: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in an interpreter that lacks a module, beside a bridge that seems to be up."""
    script = (
        f"import sys; sys.modules[{module!r}] = None\n"
        "from ntbnet.app import bridge, cli\n"
        "bridge.Bridge.is_up = lambda self: True\n"
        f"sys.argv[1:] = {list(words)!r}\n"
        "cli.main()"
    )
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)


def test_missing_library_is_named_with_its_extra() -> None:
    done = without("textual", "top", "--name", "none")

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "ntbnet: ntbnet top needs textual, which is not installed: pip install 'ntbnet[top]'\n"
    )


def test_no_terminal_is_said_in_one_line() -> None:
    done = without("nothing", "top", "--name", "none")

    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "needs a terminal" in done.stderr


def test_bridge_that_is_not_up_is_said_in_one_line() -> None:
    words = [sys.executable, "-m", "ntbnet.app.cli", "top", "--name", "none"]

    done = subprocess.run(words, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (
        1,
        "ntbnet: bridge none is not up; start it with: ntbnet up --name none\n",
    )
