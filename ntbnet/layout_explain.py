"""Where one access from the host goes: through BAR, inbound window and memory window to its target.

Each step names the rule that decided it; the last one names the target, or the rule that missed.
Source of the rules: Linux pcie-designware-ep.c; the lowest window index wins, limits are inclusive.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ntbnet.address import Span, hex_address
from ntbnet.config import Config
from ntbnet.errors import ConfigError
from ntbnet.layout import InboundWindow, LayoutBar, Range, layout_of, target_address
from ntbnet.layout_plan import DB_ENTRY_BYTES
from ntbnet.regs.edma import edma_block
from ntbnet.regs.ntb_ctrl import LAYOUTS
from ntbnet.regs.spec import RegisterBlock

_BAR_FORM = re.compile(r"BAR([0-9])(?:\+(0x[0-9A-Fa-f_]{1,20}|[0-9]{1,20}))?", re.IGNORECASE)
_NUMBER = re.compile(r"0x[0-9A-Fa-f_]{1,20}|[0-9]{1,20}", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Step:
    """One decision.

    Attributes:
        stage: address, bar, iatu, mw or target.
        address: what is looked at: bus address, offset in a BAR, or local address, with its name.
        rule: what decided, in words.
    """

    stage: str
    address: str
    rule: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """The walk of one access.

    Attributes:
        target: what it reaches; None when it misses, and the last step says why.
    """

    steps: tuple[Step, ...]
    target: str | None

    def as_json(self) -> dict[str, object]:
        """For ``explain --json``."""
        steps = [{"stage": step.stage, "address": step.address, "rule": step.rule} for step in self.steps]
        return {"target": self.target, "hit": self.target is not None, "steps": steps}


def parse_address(text: str) -> tuple[int | None, int]:
    """``BARn+OFF`` as (n, offset), or a bus address as (None, address).

    Raises:
        ConfigError: neither form.
    """
    match = _BAR_FORM.fullmatch(text)
    if match is not None and int(match[1]) <= 5:
        return int(match[1]), int(match[2] or "0", 0)
    if match is None and _NUMBER.fullmatch(text):
        value = int(text, 0) if text.lower().startswith("0x") else int(text)
        if value < 1 << 64:
            return None, value
    raise ConfigError(
        f"address {text[:60]!r}: must be a bus address (0x30000000), or BAR0+OFFSET to BAR5+OFFSET"
    )


class Walk:
    """One walk through a layout.

    Args:
        config: the configuration.
        spans: bus addresses of the BARs as the host assigned them; None for the assumed ones.
        windows: inbound windows as programmed; None for the planned ones.
    """

    def __init__(
        self,
        config: Config,
        spans: Mapping[int, Span] | None = None,
        windows: Sequence[InboundWindow] | None = None,
    ) -> None:
        self._config = config
        self._layout = layout_of(config)
        self._is_actual = windows is not None
        self._windows = self._layout.windows if windows is None else tuple(windows)
        self._spans = {bar.number: bar.span for bar in self._layout.bars} if spans is None else dict(spans)
        self._how = "the host would assign" if spans is None else "the host assigned"
        self._steps: list[Step] = []

    def explain(self, text: str, size: int = 1) -> Explanation:
        """Walk an access of ``size`` bytes, 1..4096, to an address in one of the forms of parse_address.

        Raises:
            ConfigError: the address has neither form.
        """
        number, value = parse_address(text)
        self._steps = []
        target = self._walk(number, value, size)
        return Explanation(tuple(self._steps), target)

    def _step(self, stage: str, address: str, rule: str) -> None:
        self._steps.append(Step(stage, address, rule))

    def _walk(self, number: int | None, value: int, size: int) -> str | None:
        if number is None:
            found = self._claim(value, size)
            if found is None:
                return None
            number, offset = found
        else:
            offset = value
            if not self._enter(number, offset, size):
                return None
        found_window = self._match(number, offset, size)
        if found_window is None:
            return None
        window, base = found_window
        return self._name(number, offset, size, window, offset - base)

    # BAR

    def _claim(self, addr: int, size: int) -> tuple[int, int] | None:
        for number, span in sorted(self._spans.items()):
            if span.contains(addr, size):
                rule = f"BAR{number} claims it: {self._how} {span}"
                self._step("bar", hex_address(addr), rule)
                return number, addr - span.base
        near = [n for n, span in self._spans.items() if span.contains(addr)]
        if near:
            span = self._spans[near[0]]
            rule = f"misses: {size} bytes leave BAR{near[0]} {span}; no BAR claims all of them, so UR"
        else:
            rule = "misses: no BAR claims it, so UR; " + ", ".join(
                f"BAR{n} {span}" for n, span in sorted(self._spans.items())
            )
        self._step("bar", hex_address(addr), rule)
        return None

    def _enter(self, number: int, offset: int, size: int) -> bool:
        where = f"BAR{number}+{offset:#x}"
        bar, span = self._layout.bar(number), self._spans.get(number)
        if bar is None:
            spec = self._config.profile.endpoint.bars[number]
            self._step("bar", where, f"misses: BAR{number} ({spec.kind}) is not in use, so UR")
            return False
        if offset + size > bar.size:
            self._step("bar", where, f"misses: BAR{number} has {bar.size:#x} bytes, so UR")
            return False
        if span is None:
            self._step("bar", where, f"misses: the host has assigned BAR{number} no address")
            return False
        self._step("bar", where, f"bus address {hex_address(span.base + offset)}: {self._how} {span}")
        return True

    # inbound window

    def _match(self, number: int, offset: int, size: int) -> tuple[InboundWindow, int] | None:
        """The window that an access hits, and its first offset in the BAR."""
        where = f"BAR{number}+{offset:#x}"
        span = self._spans[number]
        inside = []
        for window in sorted(self._windows, key=lambda one: one.index):
            if window.bar != number:
                continue
            base, limit = self._offsets(window, span)
            if base <= offset <= limit:
                if offset + size - 1 > limit:
                    rule = (
                        f"misses: {size} bytes leave window {window.index} ({window.what}), whose last "
                        f"offset is {limit:#x}"
                    )
                    self._step("iatu", where, rule)
                    return None
                self._step("iatu", where, self._hit(window, number, base, limit))
                return window, base
            is_stale = window.stale or not 0 <= base < span.size
            inside.append(self._miss(window, base, limit, is_stale=is_stale))
        reasons = "; ".join(inside) if inside else "none is programmed in this BAR"
        self._step("iatu", where, f"misses: no inbound window holds it, so UR: {reasons}")
        return None

    def _offsets(self, window: InboundWindow, span: Span) -> tuple[int, int]:
        """First and last offset in the BAR that a window matches, as the host has placed the BAR."""
        if self._is_actual and window.mode in {"map", "submap"}:
            return window.base - span.base, window.limit - span.base
        return window.base, window.limit

    @staticmethod
    def _hit(window: InboundWindow, number: int, base: int, limit: int) -> str:
        if window.mode == "wired":
            return f"wired: the hardware connects BAR{number} [{base:#x}, {limit:#x}], no inbound window"
        if window.mode == "bar":
            return f"inbound window {window.index}: BAR match on BAR{number} ({window.what})"
        how = "part of the BAR's submaps" if window.mode == "submap" else "address match"
        return f"inbound window {window.index}: {how}, offsets {base:#x} to {limit:#x} ({window.what})"

    @staticmethod
    def _miss(window: InboundWindow, base: int, limit: int, *, is_stale: bool) -> str:
        if is_stale:
            return (
                f"window {window.index} ({window.what}) is stale: it matches bus addresses "
                f"{window.base:#x} to {window.limit:#x}, where the BAR was before the host moved it"
            )
        return f"window {window.index} ({window.what}) is {base:#x} to {limit:#x}"

    # target

    def _name(self, number: int, offset: int, size: int, window: InboundWindow, at: int) -> str | None:
        """``at``: bytes from the start of the window."""
        where = f"BAR{number}+{offset:#x}"
        bar = self._layout.bar(number)
        part = None if bar is None else _part_at(bar, offset)
        if part is None and window.what in {"ctrl", "doorbells"}:
            self._step(
                "target", where, f"endpoint memory of the vNTB function that nothing uses ({window.what})"
            )
            return f"unused memory of BAR{number}+{offset:#x}"
        if part is None:
            self._step("target", where, f"misses: nothing lies behind the BAR here ({window.what}), so UR")
            return None
        if offset + size > part.span.end:
            self._step("target", where, f"misses: {size} bytes leave {part.name} {part.span}")
            return None
        inner = offset - part.offset
        if part.name.startswith("mw"):
            rule = f"{part.name} {part.span} of BAR{number}: {part.what}"
            self._step("mw", f"{part.name}+{inner:#x}", rule)
        return self._target(part, inner, window, at)

    def _target(self, part: Range, inner: int, window: InboundWindow, at: int) -> str | None:
        config = self._config
        if part.name == "ctrl":
            name = _register("ctrl", LAYOUTS[config.ntb.ctrl_layout], inner) or f"ctrl+{inner:#x}"
        elif part.name == "spads":
            bank, index = divmod(inner // 4, config.ntb.spad_count)
            name = f"spad bank {'AB'[bank]}[{index}]" + _rest(inner % 4)
        elif part.name == "doorbells":
            name = f"doorbell slot {inner // DB_ENTRY_BYTES}" + _rest(inner % DB_ENTRY_BYTES)
        elif part.name == "msix":
            entries = 16 * config.profile.endpoint.msi_vectors
            name = f"MSI-X entry {inner // 16}+{inner % 16}" if inner < entries else "MSI-X pending bits"
        elif part.target == "dram":
            local = window.target
            address = part.name if local is None else hex_address(local + at)
            self._step("target", address, f"receive memory that the endpoint mapped behind {part.name}")
            return f"{part.name}+{inner:#x}"
        else:
            return self._registers(part, inner, window, at)
        self._step("target", _local(window, part, inner), "endpoint memory of the vNTB function")
        return name

    def _registers(self, part: Range, inner: int, window: InboundWindow, at: int) -> str | None:
        config, endpoint = self._config, self._config.profile.endpoint
        plan = next((plan for plan in config.windows if plan.name == part.name), None)
        if window.target is not None:
            local = window.target + at
        else:
            planned = None if plan is None else target_address(config, plan)
            local = (endpoint.edma_base if planned is None else planned) + inner
        span = endpoint.msi_page if part.target == "msi" else endpoint.edma
        if span is None or not span.contains(local):
            rule = f"misses: not in the {part.target} registers {span}, nothing lies there"
            self._step("target", hex_address(local), rule)
            return None
        self._step("target", hex_address(local), f"{part.target} registers {span}")
        register = local - span.base
        if part.target == "msi":
            return f"msi+{register:#x}"
        block = edma_block(endpoint.edma_write_channels, endpoint.edma_read_channels)
        return _register("edma", block, register) or f"edma+{register:#x}"


def _part_at(bar: LayoutBar, offset: int) -> Range | None:
    return next((part for part in bar.ranges if part.span.contains(offset)), None)


def _rest(inner: int) -> str:
    return f"+{inner}" if inner else ""


def _local(window: InboundWindow, part: Range, inner: int) -> str:
    offset = part.offset + inner
    return hex_address(window.target + offset) if window.target is not None else f"{part.name}+{inner:#x}"


def _register(prefix: str, block: RegisterBlock, offset: int) -> str | None:
    element = block.at(offset)
    if element is None:
        return None
    register = element.register
    index = f"[{element.index}]" if register.count > 1 else ""
    return f"{prefix}.{register.name}{index}{_rest(offset - element.start)}"
