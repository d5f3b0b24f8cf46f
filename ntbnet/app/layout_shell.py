"""The writes that a line of shell makes: ``echo VALUE > attribute``, in the ways people spell it.

Nothing is run.  A command is either understood, known to write no attribute, or refused: a write
must never be lost without a word.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

PASSED_OVER = frozenset({
    "cd", "mkdir", "ln", "mount", "modprobe", "insmod", "ls", "rm", "rmdir", "unlink", "set", "sleep", "sync",
    "cat", "lspci", "pushd", "popd", "exit", "ip",
})  # fmt: skip
"""Commands that write no attribute unless their output is sent somewhere."""

COMMANDS = PASSED_OVER | {"echo", "printf", "sudo", "sh", "bash", "tee"}
"""Words that make a line behind a prompt a command and not prose."""

_TOKEN = re.compile(
    r"(?P<space>\s+)|(?P<comment>#.*)|(?P<operator>&&|\|\||>>|[;|&<>])"
    r"|(?P<word>(?:\"[^\"]*\"|'[^']*'|[^\s\"';|&<>])+)|(?P<quote>.)",
    re.DOTALL,
)
_QUOTED = re.compile(r"\"([^\"]*)\"|'([^']*)'")
_DISCARDED = re.compile(r"(?<!\S)(?:[12&]?>>?\s*/dev/null|2>&1)(?=[\s;|&\"']|$)")
_WRITE = re.compile(r">|\btee\b")
_ECHO_WRITE = re.compile(r"\becho\b.*(?:>|\btee\b)")


class NotUnderstood(ValueError):
    """A command that may write something, but not in a way that is known here."""


@dataclass(frozen=True, slots=True)
class Write:
    """One ``echo`` into one file."""

    path: str
    value: str


def is_echo_write(text: str) -> bool:
    """True when the text looks like an ``echo`` into a file."""
    return _ECHO_WRITE.search(text) is not None


def commands(line: str) -> tuple[list[str], str]:
    """The line's commands, as written, split at ``;`` and ``&&``; and its comment, without the ``#``."""
    found, start, comment = [], 0, ""
    for match in _TOKEN.finditer(line):
        if match.lastgroup == "comment":
            line, comment = line[: match.start()], match[0].lstrip("#").strip()
        elif match.lastgroup == "operator" and match[0] in {";", "&&"}:
            found.append(line[start : match.start()])
            start = match.end()
    found.append(line[start:])
    return [command.strip() for command in found if command.strip()], comment


def writes(command: str) -> list[Write]:
    """What one command writes; [] when it writes nothing.

    Raises:
        NotUnderstood: it may write something that is not known here; the message is the reason.
    """
    text = _DISCARDED.sub("", command)
    tokens = [(str(match.lastgroup), match[0]) for match in _TOKEN.finditer(text)]
    tokens = [token for token in tokens if token[0] not in {"space", "comment"}]
    if any(kind == "quote" for kind, _ in tokens):
        raise NotUnderstood("not understood: a quote is not closed in its line")
    piped = _pipeline(tokens)
    words = _words(piped[0])
    name = words[0].rpartition("/")[2] if words else ""
    if name == "echo":
        return _echo(piped)
    if name in {"sh", "bash"} and len(piped) == 1 and not _operators(piped[0]):
        return _shell(words)
    if words and name not in PASSED_OVER:
        raise NotUnderstood("not understood: echo VALUE > attribute")
    if _WRITE.search(text):
        raise NotUnderstood(f"what {name or 'it'} writes would be lost: only echo VALUE > attribute is read")
    return []


def _pipeline(tokens: list[tuple[str, str]]) -> list[list[tuple[str, str]]]:
    parts: list[list[tuple[str, str]]] = [[]]
    for token in tokens:
        if token == ("operator", "|"):
            parts.append([])
        else:
            parts[-1].append(token)
    return parts


def _operators(part: list[tuple[str, str]]) -> list[str]:
    return [text for kind, text in part if kind == "operator"]


def _words(part: list[tuple[str, str]]) -> list[str]:
    """The words without quotes, and without ``sudo`` and its options in front."""
    words = [
        _QUOTED.sub(lambda match: match[1] or match[2] or "", text) for kind, text in part if kind == "word"
    ]
    while words[:1] == ["sudo"]:
        words = words[1:]
        while words and words[0].startswith("-"):
            words = words[1:]
    return words


def _echo(piped: list[list[tuple[str, str]]]) -> list[Write]:
    operators, words = _operators(piped[0]), _words(piped[0])[1:]
    targets: list[str] = []
    if len(piped) == 1 and operators in ([">"], [">>"]):
        at = next(n for n, token in enumerate(piped[0]) if token[0] == "operator")
        target = _words(piped[0][at + 1 : at + 2])
        # what stands behind the target is an argument like those before the operator
        words = _words(piped[0][:at] + piped[0][at + 2 :])[1:]
        targets = target
    elif len(piped) == 2 and not operators and not _operators(piped[1]):
        tee = _words(piped[1])
        if tee[:1] == ["tee"]:
            targets = [word for word in tee[1:] if not word.startswith("-")]
    if not targets:
        raise NotUnderstood("not understood: echo VALUE > attribute")
    while words and re.fullmatch(r"-[neE]+", words[0]):
        words = words[1:]
    return [Write(target, " ".join(words).strip()) for target in targets]


def _shell(words: list[str]) -> list[Write]:
    if len(words) == 1:
        return []
    if len(words) != 3 or re.fullmatch(r"-[a-z]*c", words[1]) is None:
        raise NotUnderstood(f"not understood: {words[0]} -c 'echo VALUE > attribute'")
    return [write for command in commands(words[2])[0] for write in writes(command)]
