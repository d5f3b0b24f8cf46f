"""Faults between processes, as data: kinds, rules, plans, and the one function that decides.

A *plan* is a seed and rules; a rule says which kind of fault hits which path or service, and how often.
Whether a message is hit depends on the plan's seed, the kind, the path and the message's number on that path
alone (``decide``), never on the time or on what else happened: the same seed and the same traffic give the
same faults. Several rules of one kind are told apart by their order among themselves, so that each has dice
of its own; what other kinds a plan has changes nothing.

The number counts what the kind can hit: device messages of a path, interrupts on their way to a CPU, answers
to reads, packets of an interface. It begins at 0 when the plan is installed and goes on across sessions and
restarts, so that a new session is not hit where the old one was.

A plan as TOML::

    seed = 7

    [[faults]]
    kind = "drop"
    src = "peer-rc"
    dst = "epc"
    of = ["write", "completion"]
    rate = 100          # of a million

Nothing here does anything: ``edge/faulty.py`` injects.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any

from xxhash import xxh3_64_intdigest

from ntbnet.errors import ConfigError
from ntbnet.schema import Choice, Integer, TableReader
from ntbnet.topology import SERVICES

MILLION = 1_000_000
MAX_RULES = 32
MAX_NUMBERS = 4096
MAX_NUMBER = (1 << 53) - 1
MAX_LIMIT = MILLION
MESSAGES = ("write", "read", "completion", "config", "interrupt", "call", "path")
"""What ``of`` may name: posted writes; read requests; answers to them; configuration requests; interrupts;
calls, replies and notices of drivers; the path's own messages (greeting, opening, beat, close)."""
DEVICE_MESSAGES = MESSAGES[:-1]
INTERRUPTS, ANSWERS, WINDOWS, HANDLED = ("interrupt",), ("completion",), ("window",), ("handled",)
"""What the other kinds hit; nothing to choose. ``window``: a write of a link epoch that is not the first;
``handled``: any message that a service takes."""
FRAMES = ("sent", "received")
"""What ``of`` may name for ``drop-frame``: packets read from the interface, packets on their way to it.
``slow`` may name the latter, beside ``handled``."""
REPEATING = ("spurious-interrupt", "interrupt-storm")
"""Kinds that have an interrupt come again, ``burst`` times."""

SENDER, RECEIVER, SERVICE = "sender", "receiver", "service"
PLACES = {
    SENDER: "on the way out of the process that sends",
    RECEIVER: "in the process that receives, behind the checks of its path",
    SERVICE: "in the service itself",
}

BOTH = ("message", "local")


@dataclass(frozen=True, slots=True)
class FaultKind:
    """One row of KINDS.

    Attributes:
        what: what happens, and what the bridge makes of it.
        place: key of PLACES: where it is injected.
        of: what it can hit; ``FaultRule.of`` chooses, where it is more than one thing.
        default_of: what it hits when a rule does not choose.
        parameters: name and default of those fields of FaultRule that it heeds.
        fabrics: where it can occur.
    """

    what: str
    place: str
    of: tuple[str, ...]
    default_of: tuple[str, ...]
    parameters: tuple[tuple[str, int], ...] = ()
    fabrics: tuple[str, ...] = BOTH


KINDS: Mapping[str, FaultKind] = {
    "drop": FaultKind(
        "a message is lost: Surprise Down of its path when the next one comes, or the next beat",
        SENDER,
        MESSAGES,
        DEVICE_MESSAGES,
    ),
    "duplicate": FaultKind(
        "a message comes twice: the second one is discarded and counted", SENDER, MESSAGES, DEVICE_MESSAGES
    ),
    "delay": FaultKind(
        "a message, and what is behind it on its path, comes later by delay_us",
        SENDER,
        MESSAGES,
        DEVICE_MESSAGES,
        (("delay_us", 10_000),),
    ),
    "reorder": FaultKind(
        "a message is overtaken by `burst` messages of the sender's other paths, or waits for delay_us; "
        "its own path stays in order",
        SENDER,
        DEVICE_MESSAGES,
        DEVICE_MESSAGES,
        (("burst", 4), ("delay_us", 5_000)),
    ),
    "swap": FaultKind(
        "a message is overtaken by the next one of its own path: Surprise Down",
        SENDER,
        DEVICE_MESSAGES,
        DEVICE_MESSAGES,
    ),
    "corrupt": FaultKind(
        "`bytes` bytes of a message are changed: Surprise Down",
        SENDER,
        MESSAGES,
        DEVICE_MESSAGES,
        (("bytes", 1),),
    ),
    "truncate": FaultKind(
        "the last `bytes` bytes of a message are missing: Surprise Down",
        SENDER,
        MESSAGES,
        DEVICE_MESSAGES,
        (("bytes", 1),),
    ),
    "stall": FaultKind(
        "nothing of a path gets through for delay_us, then all of it at once; Surprise Down when that is "
        "longer than the liveness time",
        SENDER,
        MESSAGES,
        DEVICE_MESSAGES,
        (("delay_us", 100_000),),
    ),
    "cut": FaultKind(
        "nothing of a path gets through, this way, for delay_us (0: until healed); what is sent is lost",
        SENDER,
        MESSAGES,
        DEVICE_MESSAGES,
        (("delay_us", 0),),
    ),
    "slow": FaultKind(
        "a service takes delay_us longer over a message, or over a packet that it gives to its node",
        SERVICE,
        (*HANDLED, "received"),
        HANDLED,
        (("delay_us", 200),),
    ),
    "lost-interrupt": FaultKind(
        "an interrupt does not reach its CPU: late, but not lost for good, is what it announced",
        RECEIVER,
        INTERRUPTS,
        INTERRUPTS,
    ),
    "spurious-interrupt": FaultKind(
        "an interrupt comes `burst` times more, every other time as one that nobody waits for",
        RECEIVER,
        INTERRUPTS,
        INTERRUPTS,
        (("burst", 1),),
    ),
    "interrupt-storm": FaultKind(
        "an interrupt comes `burst` times more, 40 in each turn of the service's loop",
        RECEIVER,
        INTERRUPTS,
        INTERRUPTS,
        (("burst", 100_000),),
    ),
    "stuck-doorbell": FaultKind(
        "an interrupt stays asserted: it comes again every millisecond for delay_us",
        RECEIVER,
        INTERRUPTS,
        INTERRUPTS,
        (("delay_us", 100_000),),
    ),
    "stale-window": FaultKind(
        "a write comes once more through the window of an older link epoch, with other data: discarded, "
        "and counted",
        SENDER,
        WINDOWS,
        WINDOWS,
    ),
    "all-ones": FaultKind("a read gives all ones, as of a device that is gone", RECEIVER, ANSWERS, ANSWERS),
    "ur": FaultKind("a read ends in UR (unsupported request)", RECEIVER, ANSWERS, ANSWERS),
    "ca": FaultKind("a read ends in CA (completer abort)", RECEIVER, ANSWERS, ANSWERS),
    "unlink-memory": FaultKind(
        "the name of the node's DRAM is removed from shared memory; the supervisor makes it anew",
        SERVICE,
        HANDLED,
        HANDLED,
    ),
    "drop-frame": FaultKind(
        "a whole frame is lost: a packet read from the interface never reaches the ring, or one that was "
        "received never reaches the interface",
        SERVICE,
        FRAMES,
        ("sent",),
    ),
}
"""Kind of fault -> what it is."""


@dataclass(frozen=True, slots=True)
class _Words:
    words: tuple[str, ...]

    def accepts(self, value: object) -> bool:
        return (
            isinstance(value, list | tuple)
            and 1 <= len(value) <= len(self.words)
            and all(isinstance(word, str) and word in self.words for word in value)
        )

    def allowed(self) -> str:
        return "an array of one or more of " + ", ".join(f'"{word}"' for word in self.words)


@dataclass(frozen=True, slots=True)
class _Numbers:
    def accepts(self, value: object) -> bool:
        return (
            isinstance(value, list | tuple)
            and 1 <= len(value) <= MAX_NUMBERS
            and all(type(number) is int and 0 <= number <= MAX_NUMBER for number in value)
        )

    def allowed(self) -> str:
        return f"an array of 1..{MAX_NUMBERS} integers 0..{MAX_NUMBER}"


_LABEL = Choice(SERVICES)


@dataclass(frozen=True, slots=True)
class FaultRule:
    """One kind of fault, where it strikes, and how often.

    Exactly one of ``rate``, ``every`` and ``at`` is given. A field that its kind does not heed must not be.
    """

    kind: Annotated[str, Choice(tuple(KINDS))]
    """A key of KINDS."""
    src: Annotated[str, _LABEL] = ""
    """Sending service of the path; empty: any. Not for kinds whose place is a service."""
    dst: Annotated[str, _LABEL] = ""
    """Receiving service of the path; empty: any. Not for kinds whose place is a service."""
    service: Annotated[str, _LABEL] = ""
    """Service that is hit, for kinds whose place is a service; empty: all."""
    of: Annotated[tuple[str, ...], _Words((*MESSAGES, *HANDLED, *FRAMES))] = ()
    """What is hit, of KINDS[kind].of; empty: KINDS[kind].default_of. For kinds with a choice."""
    rate: Annotated[int, Integer(1, MILLION, "of a million")] = 0
    """How many of a million are hit, 1..1000000; which ones, ``decide`` says."""
    every: Annotated[int, Integer(1, MAX_NUMBER)] = 0
    """Every so-manieth is hit, the first one after every-1 good ones."""
    at: Annotated[tuple[int, ...], _Numbers()] = ()
    """Those numbers are hit, counted from 0."""
    limit: Annotated[int, Integer(1, MAX_LIMIT)] = 0
    """Most injections by one service, counted across its restarts; 0: no limit."""
    delay_us: Annotated[int, Integer(0, 60_000_000, "us")] = -1
    """Microseconds, 0..60000000; -1: the kind's default."""
    bytes: Annotated[int, Integer(1, 4096, "bytes")] = 0
    """Bytes that are changed or cut off, 1..4096; 0: the kind's default."""
    burst: Annotated[int, Integer(1, MILLION)] = 0
    """Repetitions, or messages that overtake, 1..1000000; 0: the kind's default."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "of", tuple(self.of))
        object.__setattr__(self, "at", tuple(self.at))

    @property
    def hits(self) -> frozenset[str]:
        """What the rule applies to, its own choice or the kind's default."""
        return frozenset(self.of or KINDS[self.kind].default_of)

    def parameter(self, name: str) -> int:
        """``delay_us``, ``bytes`` or ``burst``: as given, or the kind's default. KeyError: not heeded."""
        default = dict(KINDS[self.kind].parameters)[name]
        given: int = getattr(self, name)
        return default if given == _NOT_GIVEN[name] else given

    def applies(self, src: str, dst: str) -> bool:
        """True when the rule is about the path from ``src`` to ``dst``."""
        return self.src in {"", src} and self.dst in {"", dst}

    def strikes(self, seed: int, path: str, number: int, dice: str = "") -> bool:
        """True when the ``number``-th thing of ``path`` is hit, limits aside.

        Args:
            seed: of the plan.
            path: as ``decide`` takes it.
            number: of the thing on the path.
            dice: what ``FaultPlan.dice`` says of this rule; empty: it is the only one of its kind.
        """
        if self.at:
            return number in self.at
        if self.every:
            return number % self.every == self.every - 1
        return decide(seed, dice or self.kind, path, number) * MILLION >> 32 < self.rate


_NOT_GIVEN = {"delay_us": -1, "bytes": 0, "burst": 0}


@dataclass(frozen=True, slots=True)
class FaultPlan:
    """A seed, 0..2^53-1, and up to MAX_RULES rules."""

    seed: Annotated[int, Integer(0, MAX_NUMBER)] = 0
    faults: tuple[FaultRule, ...] = ()

    def dice(self, index: int) -> str:
        """What ``decide`` is asked with for a rule: its kind, with a number from the second one on."""
        kind = self.faults[index].kind
        earlier = sum(rule.kind == kind for rule in self.faults[:index])
        return f"{kind} {earlier + 1}" if earlier else kind

    def for_service(self, service: str) -> dict[int, FaultRule]:
        """The rules that ``service`` injects, by their place in the plan."""
        found = {}
        for number, rule in enumerate(self.faults):
            own = {SENDER: rule.src, RECEIVER: rule.dst, SERVICE: rule.service}[KINDS[rule.kind].place]
            if own in {"", service}:
                found[number] = rule
        return found


def decide(seed: int, kind: str, path: str, sequence: int) -> int:
    """32 uniform bits that depend on the arguments alone.

    Args:
        seed: of the plan, 0..2^53-1.
        kind: of the fault (``FaultPlan.dice``); other words give other, independent bits for the same thing.
        path: ``src>dst``, or the name of a service.
        sequence: number of the thing on the path, 0 or more.
    """
    return xxh3_64_intdigest(f"{kind} {path} {sequence}".encode(), seed) >> 32


def plan_from(table: object, source: str) -> FaultPlan:
    """The plan in a TOML table (``seed`` and ``[[faults]]``).

    Args:
        table: what tomllib or msgpack gave; anything is possible.
        source: a file name or similar, put before each message.

    Raises:
        ConfigError: one line that names key, value and allowed range.
    """
    plan = TableReader(source, FaultPlan).read(FaultPlan, table, FaultPlan())
    if len(plan.faults) > MAX_RULES:
        raise ConfigError(f"{source}: faults has {len(plan.faults)} rules: must be at most {MAX_RULES}")
    tables: Sequence[Mapping[str, Any]] = table.get("faults", []) if isinstance(table, dict) else []
    for number, (rule, given) in enumerate(zip(plan.faults, tables, strict=True)):
        _check(rule, given.keys(), f"{source}: faults[{number}]")
    return plan


def rules_from(tables: object, source: str) -> tuple[FaultRule, ...]:
    """The rules in an array of TOML tables. ConfigError as ``plan_from``."""
    return plan_from({"faults": tables}, source).faults


def _check(rule: FaultRule, given: Iterable[str], where: str) -> None:
    """Rules that join several keys."""
    kind, keys = KINDS[rule.kind], set(given)
    if len(keys & {"rate", "every", "at"}) != 1:
        raise ConfigError(f"{where}: exactly one of rate, every and at must be given")
    heeded = {"kind", "rate", "every", "at", "limit"} | dict(kind.parameters).keys()
    heeded |= {"service"} if kind.place == SERVICE else {"src", "dst"}
    heeded |= {"of"} if len(kind.of) > 1 else set()
    for key in sorted(keys - heeded):
        raise ConfigError(f"{where}: {key} means nothing for kind = '{rule.kind}'; it heeds {_list(heeded)}")
    if rule.of and not set(rule.of) <= set(kind.of):
        raise ConfigError(f"{where}: of = {list(rule.of)}: must be of {_list(kind.of)}")
    if rule.src and rule.src == rule.dst:
        raise ConfigError(f"{where}: src = dst = '{rule.src}': no path")


def _list(words: Iterable[str]) -> str:
    return ", ".join(sorted(words))


def to_body(plan: FaultPlan) -> dict[str, Any]:
    """The plan as plain numbers, texts, lists and maps: what ``from_body`` takes."""
    defaults = asdict(FaultRule("drop"))
    rules = []
    for rule in plan.faults:
        fields = {
            key: list(value) if isinstance(value, tuple) else value for key, value in asdict(rule).items()
        }
        rules.append(
            {key: value for key, value in fields.items() if key == "kind" or value not in (defaults[key], [])}
        )
    return {"seed": plan.seed, "faults": rules}


def from_body(body: object, source: str = "plan") -> FaultPlan:
    """The plan that ``to_body`` made a body of, checked like any other. ConfigError as ``plan_from``."""
    return plan_from(body, source)
