"""``ntbnet top``: the widgets. What they show is ``top_view`` and ``top_text``, what keys do ``top_actions``.

Looking at the bridge and acting on it block, so both happen in threads beside the event loop.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.widget import Widget
from textual.widgets import Footer, Static

from ntbnet import topology
from ntbnet.app import top_text
from ntbnet.app.top_actions import Actions
from ntbnet.app.top_snapshot import Snapshot
from ntbnet.app.top_view import View, view_of
from ntbnet.errors import NtbnetError

HELP = """\
up, down   choose a service; its line is marked
k          kill it (SIGKILL); the supervisor replaces it
s          stop it (SIGSTOP), or let it go on (SIGCONT); one that
           stays stopped is taken for hung and replaced
l          flap the link: down on both nodes, then up again;
           up, when it is down by command
t          start a trace of everything, or end it; latencies are
           of packets that it sees
p          pause the view, or go on
r          look now
pgup, pgdn more queues, where they do not fit
q          quit; the bridge stays as it is

k, s and l ask first. CPU is of one processor, memory counts what
processes share. Rates are of the time between two looks; "-" is
what is not known. The ring is the receiver's, as its sender sees it.
More: ntbnet status, ntbnet logs show."""


class Events(Widget):
    """The newest events of the log; as many as there is room for, whenever it is drawn."""

    def __init__(self, *, id: str) -> None:  # noqa: A002 - as every widget names it
        super().__init__(id=id)
        self._lines: Sequence[Mapping[str, Any]] | None = None

    def show(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """These from now on, oldest first."""
        self._lines = lines
        self.refresh()

    def render(self) -> Text:
        """Called by textual, once it is known how much room there is."""
        if self._lines is None:
            return Text()
        return Text("\n").join(top_text.events(self._lines, self.content_size.height))


class Confirmation(ModalScreen[bool]):
    """Asks before something is broken; only y does it."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "dismiss(True)", "yes"),
        Binding("n,escape,q", "dismiss(False)", "no"),
    ]

    def __init__(self, question: str) -> None:
        super().__init__()
        self._question = question

    def compose(self) -> ComposeResult:
        yield Static(Text(f"{self._question}\n\ny  yes      n  no"), classes="box")


class Help(ModalScreen[None]):
    """What the keys do."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q,h,question_mark", "dismiss", "back")]

    def compose(self) -> ComposeResult:
        yield Static(Text(f"{HELP}\n\nescape  back"), classes="box")


class Top(App[None]):
    """The live view of one bridge.

    Args:
        look: takes a snapshot of it; called in a thread.
        actions: what keys do to it; called in threads.
        interval_s: time from one look to the next, seconds.
    """

    CSS = """
    Screen { layout: vertical; }
    Static, Events { text-wrap: nowrap; text-overflow: ellipsis; }
    #head, #banner, #picture, #services, #interrupts { height: auto; }
    #banner { text-style: bold; }
    #queues { height: auto; max-height: 9; }
    #directions { height: auto; }
    #events { height: 1fr; min-height: 1; border-top: solid $secondary; }
    Confirmation, Help { align: center middle; }
    .box { width: auto; max-width: 95%; height: auto; padding: 1 2; border: thick $warning; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "quit", "quit"),
        Binding("question_mark,h", "show_help", "help", key_display="?"),
        Binding("up", "choose(-1)", "choose", show=False),
        Binding("down", "choose(1)", "choose", show=False),
        Binding("k", "kill", "kill"),
        Binding("s", "stop_or_continue", "stop/cont"),
        Binding("l", "flap", "flap link"),
        Binding("t", "trace", "trace"),
        Binding("p", "pause", "pause"),
        Binding("r", "look_now", "look"),
        Binding("pageup", "page(-1)", "queues", show=False),
        Binding("pagedown", "page(1)", "queues", show=False),
    ]
    ENABLE_COMMAND_PALETTE = False

    def __init__(self, look: Callable[[], Snapshot], actions: Actions, interval_s: float) -> None:
        super().__init__(ansi_color=True)
        self._look, self._actions, self._interval_s = look, actions, interval_s
        self._before: Snapshot | None = None
        self._view: View | None = None
        self._selected = topology.SERVICES[0]
        self._is_paused = False
        self._trouble = ""
        """Why there is nothing newer to be shown."""
        self.looks = 0
        """Looks that were taken and drawn, or failed."""
        self._asked = asyncio.Event()
        """Somebody wants a look before its time."""

    def compose(self) -> ComposeResult:
        yield Static("looking at the bridge", id="head")
        yield Static(id="banner")
        with Vertical(id="body"):
            yield Static(id="picture")
            yield Static(id="services")
            with VerticalScroll(id="queues", can_focus=False):
                yield Static(id="directions")
            yield Static(id="interrupts")
            yield Events(id="events")
        yield Footer()

    def on_mount(self) -> None:
        self.title = "ntbnet top"
        self.run_worker(self._look_on(), exit_on_error=True)

    def on_resize(self) -> None:
        self.call_after_refresh(self._draw)

    # looking

    async def _look_on(self) -> None:
        while True:
            if not self._is_paused:
                try:
                    after = await asyncio.to_thread(self._look)
                except (NtbnetError, OSError) as problem:
                    self._trouble = f"this look failed: {problem}"
                else:
                    self._trouble = ""
                    self._view = view_of(self._before, after)
                    self._before = after
                self._draw()
                self.looks += 1
            self._asked.clear()
            try:
                async with asyncio.timeout(self._interval_s):
                    await self._asked.wait()
            except TimeoutError:
                continue

    def _show(self, name: str, lines: Sequence[Text]) -> None:
        self.screen_stack[0].query_one(f"#{name}", Static).update(Text("\n").join(lines))

    def _draw(self) -> None:
        view = self._view
        body = self.screen_stack[0]  # a question may lie above it
        advice = self._trouble or (view.advice if view is not None else "")
        self._show("banner", [Text(f" ! {advice}")] if advice else [])
        body.query_one("#banner").display = bool(advice)
        if view is None:
            return
        self._show("head", [top_text.headline(view, is_paused=self._is_paused)])
        for name in ("picture", "services", "queues", "interrupts"):
            body.query_one(f"#{name}").display = not view.is_gone
        self._show("picture", top_text.picture(view))
        self._show("services", top_text.services(view.services, self._selected))
        self._show("directions", top_text.directions(view.directions))
        self._show(
            "interrupts",
            [
                *top_text.interrupts(view.interrupts),
                *top_text.latencies(view.latencies, is_traced=view.is_traced),
            ],
        )
        body.query_one("#events", Events).show(view.events)

    # keys

    def action_choose(self, step: int) -> None:
        """Mark the next or previous service."""
        names = topology.SERVICES
        self._selected = names[(names.index(self._selected) + step) % len(names)]
        self._draw()

    def action_page(self, step: int) -> None:
        """Show other queues, where they do not fit."""
        queues = self.screen_stack[0].query_one("#queues", VerticalScroll)
        (queues.scroll_page_down if step > 0 else queues.scroll_page_up)(animate=False)

    def action_pause(self) -> None:
        """Hold the view, or go on."""
        self._is_paused = not self._is_paused
        self._asked.set()
        self._draw()

    def action_look_now(self) -> None:
        """Look before its time."""
        self._asked.set()

    def action_show_help(self) -> None:
        """Say what the keys do."""
        self.push_screen(Help())

    def action_kill(self) -> None:
        """Kill the service that is marked, if its user says so."""
        self._signal("Kill", signal.SIGKILL)

    def action_stop_or_continue(self) -> None:
        """Stop the service that is marked, if its user says so; let a stopped one go on."""
        record = self._actions.process(self._selected)
        if record is not None and self._actions.is_stopped(record):
            service = self._selected
            self._act(lambda: self._actions.send(service, record, signal.SIGCONT))
        else:
            self._signal("Stop", signal.SIGSTOP)

    def _signal(self, verb: str, number: signal.Signals) -> None:
        service = self._selected
        record = self._actions.process(service)
        if record is None:
            self.notify(f"no process is {service} now", severity="warning")
            return
        self._confirm(
            f"{verb} {service}, process {record.pid} ({number.name})?",
            lambda: self._actions.send(service, record, number),
        )

    def action_flap(self) -> None:
        """Take the link down and up again, if the user says so."""
        view = self._view
        if view is not None and view.is_gone:
            self.notify("there is no link: the bridge is not up", severity="warning")
        elif view is not None and view.link_down_by:
            self._act(self._actions.flap)
        else:
            self._confirm("Take the link down on both nodes, then up again?", self._actions.flap)

    def action_trace(self) -> None:
        """Start a trace, or end it; asks before an earlier one's records go."""
        view, deed = self._view, self._actions.toggle_trace
        if view is None or view.is_gone:
            self.notify("nothing to trace: the bridge is not up", severity="warning")
        elif self._actions.would_lose_trace():
            self._confirm("Start a trace? What the one before it recorded is removed.", deed)
        else:
            self._act(deed)

    def _confirm(self, question: str, deed: Callable[[], str]) -> None:
        def on_answer(is_wanted: bool | None) -> None:
            if is_wanted:
                self._act(deed)

        self.push_screen(Confirmation(question), on_answer)

    def _act(self, deed: Callable[[], str]) -> None:
        async def act() -> None:
            try:
                self.notify(await asyncio.to_thread(deed), markup=False)
            except (NtbnetError, OSError) as problem:
                self.notify(str(problem), severity="error", markup=False)
            self._asked.set()

        self.run_worker(act())
