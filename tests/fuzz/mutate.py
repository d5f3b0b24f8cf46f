"""Valid things with something changed: integers, bytes, trees of msgpack, lines of TOML."""

from __future__ import annotations

from random import Random
from typing import Any

import msgpack

MAX_BYTES = 4096
EDGES = sorted(
    {
        value & 0xFFFF_FFFF_FFFF_FFFF
        for bits in (0, 1, 2, 3, 7, 8, 12, 15, 16, 31, 32, 33, 47, 63, 64)
        for value in ((1 << bits) - 1, 1 << bits, (1 << bits) + 1)
    }
)
"""Where integers turn over, and their neighbours."""


def integer(chance: Random, bits: int, near: int = 0) -> int:
    """An integer of at most ``bits`` bits: an edge, a neighbour of ``near``, one bit off, or anything."""
    choice = chance.randrange(4)
    if choice == 0:
        value = chance.choice(EDGES)
    elif choice == 1:
        value = near + chance.choice((-4, -1, 1, 4))
    elif choice == 2:
        value = near ^ 1 << chance.randrange(bits)
    else:
        value = chance.getrandbits(bits)
    return value & (1 << bits) - 1


def octets(chance: Random, data: bytes) -> bytes:
    """Bytes with a few bits turned, a piece cut, doubled or overwritten."""
    found = bytearray(data)
    for _ in range(chance.randint(1, 3)):
        choice, at = chance.randrange(6), chance.randrange(len(found) + 1)
        if choice == 0 and found:
            found[at % len(found)] ^= 1 << chance.randrange(8)
        elif choice == 1:
            del found[at:]
        elif choice == 2:
            del found[at : at + chance.randint(1, 64)]
        elif choice == 3:
            found[at:at] = chance.randbytes(chance.randint(1, 16))
        elif choice == 4:
            found[at:at] = found[at : at + chance.randint(1, 128)]
        else:
            width = chance.choice((1, 2, 4, 8))
            found[at : at + width] = integer(chance, 8 * width).to_bytes(width, "little")
    return bytes(found[:MAX_BYTES])


def leaf(chance: Random) -> Any:
    """Any value that msgpack has, edges preferred."""
    choice = chance.randrange(11)
    if choice < 4:
        return chance.choice(EDGES) if chance.random() < 0.7 else -chance.getrandbits(63)
    if choice == 4:
        return chance.choice((None, True, False))
    if choice == 5:
        return chance.choice((0.0, -0.0, 1.5, float("inf"), float("nan"), 1e300))
    if choice == 6:
        return chance.choice(("", "edma", "peer-rc", "epc", "0", "ä", "\0", "x" * 300))
    if choice == 7:
        return chance.randbytes(chance.randrange(20))
    if choice == 8:
        return [chance.choice(EDGES)] * chance.choice((0, 1, 3, 5, 33, 1100))
    if choice == 9:
        return {chance.choice(("", "a", "memory")): chance.choice(EDGES)}
    return nested(chance.choice((2, 40, 300)))


def nested(depth: int) -> Any:
    """A list in a list in a list."""
    found: Any = []
    for _ in range(depth):
        found = [found]
    return found


def tree(chance: Random, value: Any) -> Any:
    """The value with one thing in it changed, dropped, doubled or added; itself is left alone."""
    if isinstance(value, dict) and value and chance.random() < 0.9:
        key = chance.choice(list(value))
        choice = chance.randrange(8)
        if choice == 0:
            return {name: one for name, one in value.items() if name != key}
        if choice == 1:
            return {**value, leaf_key(chance): leaf(chance)}
        return {**value, key: tree(chance, value[key])}
    if isinstance(value, (list, tuple)) and value and chance.random() < 0.9:
        at = chance.randrange(len(value))
        choice = chance.randrange(8)
        if choice == 0:
            return [*value[:at], *value[at + 1 :]]
        if choice == 1:
            return [*value[: at + 1], *value[at:]]
        if choice == 2:
            return list(value) * chance.choice((2, 40))
        return [*value[:at], tree(chance, value[at]), *value[at + 1 :]]
    if isinstance(value, int) and not isinstance(value, bool) and chance.random() < 0.6:
        return integer(chance, 64, value)
    return leaf(chance)


def leaf_key(chance: Random) -> Any:
    """A key of a map: mostly text."""
    return chance.choice(("", "x", "op", "args", "epoch", 0, None, b"x", 1.5))


def packed(chance: Random, value: Any) -> bytes:
    """msgpack of the value with something changed; now and then no msgpack at all."""
    changed = tree(chance, value)
    try:
        body: bytes = msgpack.packb(changed)
    except (ValueError, OverflowError):  # too deep for the packer, so made by hand
        body = b"\x91" * chance.choice((600, 3000)) + b"\xc0"
    return octets(chance, body) if chance.random() < 0.1 else body


_TOML = (
    *(
        "true",
        "false",
        '""',
        '"x"',
        "[]",
        "{}",
        "-1",
        "0",
        "1e400",
        "nan",
        "0x7fffffffffffffff",
        "1979-05-27",
    ),
    *(
        '"both"',
        '"rc"',
        '"tcp"',
        '"../../x"',
        '"/"',
        '"\\u0000"',
        "9" * 30,
        "[[1]]",
        "{a = {b = 1}}",
        "'''x'''",
    ),
    *('"10.77.0.1/24"', '"::/0"', '"999.1.1.1/99"', '"::ffff:1.2.3.4/64"', '"r-car-s4"', '"message"', "4096"),
)


def toml(chance: Random, text: str) -> str:
    """A file with a few lines changed, dropped, doubled, moved or damaged."""
    lines = text.splitlines()
    for _ in range(chance.randint(1, 4)):
        at, choice = chance.randrange(len(lines) + 1), chance.randrange(10)
        if at == len(lines):
            lines.append(
                chance.choice(("x = 1", "[x]", "[[node]]", "[ntb]", "\0", "=", "[machine]\nnode = 'rc'"))
            )
        elif choice < 6 and "=" in lines[at]:
            key = lines[at].lstrip("#").partition("=")[0]
            lines[at] = f"{key}= {chance.choice(_TOML) if chance.random() < 0.8 else integer(chance, 64)}"
        elif choice == 6:
            del lines[at]
        elif choice == 7:
            lines.insert(at, lines[chance.randrange(len(lines))])
        elif choice == 8:
            lines[at] = lines[at].lstrip("#")
        else:
            lines[at] = octets(chance, lines[at].encode()).decode(errors="replace")
    return "\n".join(lines)
