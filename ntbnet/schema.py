"""Reading TOML tables into frozen dataclasses, with one clear line for whatever is wrong.

A field says its type, what it accepts and its default in one place::

    mtu: Annotated[int, Integer(1280, 65510, unit="bytes")] = 65510

A field whose type is itself a dataclass is a sub-table; one of type ``tuple[Some, ...]`` is an
array of tables.  Rules that join several keys are not for here: see ``config.py``.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Protocol, TypeVar, get_args, get_origin, get_type_hints

from ntbnet.errors import ConfigError

SHOWN_CHARACTERS = 60
"""A value longer than this is cut in a message: it may be megabytes of somebody's mistake."""

T = TypeVar("T")


class Rule(Protocol):
    """What one key accepts."""

    def accepts(self, value: object) -> bool:
        """True when the value has the right type and lies in range."""
        ...

    def allowed(self) -> str:
        """What would have been accepted, for the end of an error message."""
        ...


@dataclass(frozen=True, slots=True)
class Integer:
    """An integer from ``low`` to ``high`` (both inclusive), a multiple of ``multiple_of``.

    A Python bool is not an integer here.  ``hexadecimal`` only decides how it is printed.
    """

    low: int
    high: int
    unit: str = ""
    multiple_of: int = 1
    power_of_two: bool = False
    hexadecimal: bool = False

    def accepts(self, value: object) -> bool:
        """See Rule."""
        if not isinstance(value, int) or isinstance(value, bool):
            return False
        if not self.low <= value <= self.high or value % self.multiple_of:
            return False
        return not self.power_of_two or (value > 0 and value & (value - 1) == 0)

    def allowed(self) -> str:
        """See Rule."""
        text = f"an integer {self.written(self.low)}..{self.written(self.high)}"
        if self.unit:
            text += f" {self.unit}"
        if self.multiple_of > 1:
            text += f", a multiple of {self.written(self.multiple_of)}"
        if self.power_of_two:
            text += ", a power of two"
        return text

    def nearest(self, value: int) -> int:
        """An allowed value near ``value``: clamped, then rounded down to a multiple."""
        clamped = min(max(value, self.low), self.high)
        return max(clamped - clamped % self.multiple_of, self.low)

    def shown(self, value: int) -> str:
        """The value on one line of readable length, in the notation of the range."""
        return self.written(value) if value.bit_length() <= 64 else shown(value)

    def written(self, value: int) -> str:
        """The value as it stands in a TOML file."""
        return f"{value:#x}" if self.hexadecimal and value > 9 else str(value)


@dataclass(frozen=True, slots=True)
class Boolean:
    """true or false, and nothing that merely behaves like it."""

    def accepts(self, value: object) -> bool:
        """See Rule."""
        return isinstance(value, bool)

    def allowed(self) -> str:
        """See Rule."""
        return "true or false"


@dataclass(frozen=True, slots=True)
class Switch:
    """true or false, as boolean or as word, or one of further ``words``; kept as a word."""

    words: tuple[str, ...]

    def accepts(self, value: object) -> bool:
        """See Rule."""
        return isinstance(value, bool) or (isinstance(value, str) and value in {"true", "false", *self.words})

    def allowed(self) -> str:
        """See Rule."""
        return "".join(f'"{word}", ' for word in self.words) + "true or false"

    @staticmethod
    def word(value: object) -> str:
        """An accepted value as the word it is kept as."""
        return shown(value) if isinstance(value, bool) else str(value)

    @staticmethod
    def written(value: str) -> str:
        """The word as it stands in a TOML file."""
        return value if value in {"true", "false"} else f'"{value}"'


@dataclass(frozen=True, slots=True)
class Choice:
    """One of a few words; ``absent`` are words known but not available, with the reason."""

    words: tuple[str, ...]
    absent: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def accepts(self, value: object) -> bool:
        """See Rule."""
        return isinstance(value, str) and value in self.words

    def allowed(self) -> str:
        """See Rule."""
        reasons = "".join(f" ({word!r} is {why})" for word, why in self.absent.items())
        return " or ".join(f'"{word}"' for word in self.words) + reasons


@dataclass(frozen=True, slots=True)
class Words:
    """An array of some of a few words, each at most once; kept as a tuple."""

    words: tuple[str, ...]

    def accepts(self, value: object) -> bool:
        """See Rule."""
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            return False
        return len(set(value)) == len(value) and set(value) <= set(self.words)

    def allowed(self) -> str:
        """See Rule."""
        return "an array of some of " + ", ".join(f'"{word}"' for word in self.words)


@dataclass(frozen=True, slots=True)
class Text:
    """A string that matches ``pattern`` as a whole; ``what`` describes it to a person."""

    pattern: str
    what: str

    def accepts(self, value: object) -> bool:
        """See Rule."""
        return isinstance(value, str) and re.fullmatch(self.pattern, value) is not None

    def allowed(self) -> str:
        """See Rule."""
        return self.what


@dataclass(frozen=True, slots=True)
class Key:
    """One leaf of a tree: its dotted name and its rule."""

    name: str
    rule: Rule


@dataclass(frozen=True, slots=True)
class Violation:
    """One key whose value breaks one rule.

    Attributes:
        key: its dotted name.
        value: what stands there, or what it was completed to.
        rule: what it would have to be, and why.
        text: the value as a person wrote it, on one line.
    """

    key: str
    value: object
    rule: str
    text: str

    def __str__(self) -> str:
        return f"{self.key} = {self.text}: {self.rule}"

    def as_json(self) -> dict[str, object]:
        """Key, value and rule; a value that JSON has no type for is its text."""
        is_plain = isinstance(self.value, (bool, str)) or (
            isinstance(self.value, int) and self.value.bit_length() <= 64
        )
        return {"key": self.key, "value": self.value if is_plain else self.text, "rule": self.rule}


def shown(value: object) -> str:
    """The value on one line, cut to a readable length, whatever it is."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) and value.bit_length() > 64:
        return f"an integer of {value.bit_length()} bits"
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list):
        return "an array"
    text = repr(value)
    return text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "..."


def keys(cls: type[Any], prefix: str = "") -> Iterable[Key]:
    """Every leaf of the tree below ``cls``, in the order of its fields; arrays of tables are left out."""
    for name, hint in _hints(cls).items():
        rule = _rule(hint)
        if rule is not None:
            yield Key(prefix + name, rule)
        elif get_origin(hint) is not tuple:
            yield from keys(hint, f"{prefix}{name}.")


class TableReader:
    """Reads one document, ``source`` (a file name or similar, put before each message)."""

    def __init__(self, source: str, root: type[Any], refused: list[Violation] | None = None) -> None:
        """Read a document of the shape of ``root``.

        Args:
            source: a file name or similar, put before each message.
            root: the whole tree, for "the nearest known one".
            refused: takes unknown keys, and what a rule refuses, the nearest allowed value standing in
                for it; None when the first refusal is an error.
        """
        self._source = source
        self._refused = refused
        self._known = [key.name for key in keys(root)]

    def read(self, cls: type[T], table: object, default: T | None, path: str = "") -> T:
        """Make a ``cls`` of ``table``; keys that are missing come from ``default``.

        Args:
            cls: a frozen dataclass made of Annotated leaves, dataclasses and tuples of dataclasses.
            table: what tomllib gave; anything is possible.
            default: None when every key without a default of its own must be there.
            path: dotted name of the table, ending in a dot unless empty.

        Raises:
            ConfigError: unknown or missing key, wrong type, value out of range.
        """
        if not isinstance(table, dict):
            raise self.error(path.rstrip("."), table, "a table")
        hints = _hints(cls)
        for key in table:
            if key not in hints:
                self._complain(self._unknown(path, key, table[key]))
        values: dict[str, Any] = {}
        for name, hint in hints.items():
            if name in table:
                inner = None if default is None else getattr(default, name)
                values[name] = self._value(hint, table[name], inner, path + name)
            elif default is not None:
                values[name] = getattr(default, name)
            elif name not in _optional(cls):
                raise ConfigError(f"{self._source}: {path}{name} is missing: every key of it must be given")
        return cls(**values)

    def error(self, name: str, value: object, allowed: str) -> ConfigError:
        """The one line that says key, value and allowed range."""
        return ConfigError(f"{self._source}: {name} = {shown(value)}: must be {allowed}")

    def _value(self, hint: Any, value: object, default: Any, name: str) -> object:
        rule = _rule(hint)
        if rule is not None:
            if rule.accepts(value):
                if isinstance(rule, Words):
                    return tuple(value)  # type: ignore[arg-type]  # a list: the rule accepted it
                return rule.word(value) if isinstance(rule, Switch) else value
            return self._refuse(rule, value, default, name)
        if get_origin(hint) is tuple:
            if not isinstance(value, list):
                raise self.error(name, value, f"an array of tables, [[{name}]]")
            item = get_args(hint)[0]
            return tuple(self.read(item, one, None, f"{name}[{i}].") for i, one in enumerate(value))
        return self.read(hint, value, default, f"{name}.")

    def _refuse(self, rule: Rule, value: object, default: object, name: str) -> object:
        text, stand_in = shown(value), default
        if isinstance(rule, Integer) and isinstance(value, int) and not isinstance(value, bool):
            text, stand_in = rule.shown(value), rule.nearest(value)
        self._complain(Violation(name, value, f"must be {rule.allowed()}", text))
        return stand_in

    def _complain(self, violation: Violation) -> None:
        if self._refused is None:
            raise ConfigError(f"{self._source}: {violation}")
        self._refused.append(violation)

    def _unknown(self, path: str, key: str, value: object) -> Violation:
        import difflib  # noqa: PLC0415 - slow to import, needed only to explain a mistake

        shown_key = key if re.fullmatch(r"[A-Za-z0-9_-]{1,60}", key) else shown(key)
        here = {known.removeprefix(path).partition(".")[0] for known in self._known if known.startswith(path)}
        near = [path + name for name in difflib.get_close_matches(shown_key, sorted(here), n=1, cutoff=0.5)]
        # the right name in the wrong section; else whatever this one has
        near += [known for known in self._known if known.rpartition(".")[2] == key]
        near += difflib.get_close_matches(
            path + shown_key, [path + name for name in sorted(here)], n=1, cutoff=0.5
        )
        hint = f"; the nearest known one is {near[0]}" if near else ""
        return Violation(path + shown_key, value, f"unknown key{hint}", shown(value))


_resolved: dict[type[Any], Mapping[str, Any]] = {}
"""Hints of each class that was read once: until they are resolved they are text to compile."""


def _hints(cls: type[Any]) -> Mapping[str, Any]:
    if cls not in _resolved:
        hints = get_type_hints(cls, include_extras=True)
        _resolved[cls] = {field.name: hints[field.name] for field in dataclasses.fields(cls)}
    return _resolved[cls]


def _optional(cls: type[Any]) -> frozenset[str]:
    return frozenset(f.name for f in dataclasses.fields(cls) if f.default is not dataclasses.MISSING)


def _rule(hint: Any) -> Rule | None:
    if get_origin(hint) is not Annotated:
        return None
    rule: Rule = get_args(hint)[1]
    return rule
