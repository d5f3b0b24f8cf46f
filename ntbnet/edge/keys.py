"""Keys of machines: which pair is this one's, and which others it lets in.

A folder, 0700, of files in the format of CurveZMQ certificates (``zmq.auth`` reads it)::

    own.key             the pair of this machine; 0600, never leaves it
    allowed/NAME.pub    the public key of another machine that may connect

A public key is 32 bytes, written as 40 characters of Z85 (ZeroMQ RFC 32). The files are read once, when a
service starts; whatever is wrong with them is a ConfigError that says what to do.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import zmq
from zmq.utils import z85

from ntbnet.config import Config
from ntbnet.errors import ConfigError, SetupError

OWN = "own.key"
ALLOWED = "allowed"
MAX_ALLOWED = 256
_MAX_FILE_BYTES = 4096
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
_KEY = re.compile(r"[0-9A-Za-z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}")
_LINE = re.compile(r'(?m)^\s*(public|secret)-key\s*=\s*"([^"\n]{40})"\s*$')


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A machine's own pair, both in Z85."""

    public: str
    secret: str

    def __repr__(self) -> str:
        return f"KeyPair({self.public})"


@dataclass(frozen=True, slots=True)
class KeyRing:
    """What a service needs to speak with the other machine."""

    own: KeyPair
    allowed: Mapping[str, str]
    """Name -> public key (Z85) of each machine that may connect."""
    peer: str
    """Public key (Z85) of the machine that this one connects to."""

    @property
    def path_key(self) -> int:
        """Seed of the checksums between the two machines, 0..2^64-1; another pair has another one."""
        both = "".join(sorted((self.own.public, self.peer)))
        return int.from_bytes(hashlib.blake2b(both.encode(), digest_size=8).digest(), "little")


def check_public_key(text: str) -> str:
    """The key, when it is one.

    Raises:
        ConfigError: not 40 characters of Z85 that stand for 32 bytes.
    """
    problem = ConfigError(
        f"public key {text[:60]!r}: must be 40 characters of Z85, as ntbnet keys show prints"
    )
    if not _KEY.fullmatch(text):
        raise problem
    try:
        z85.decode(text)
    except (ValueError, struct.error):
        raise problem from None
    return text


def check_key_name(name: str) -> str:
    """The name, when an allowed key can have it.

    Raises:
        ConfigError: not 1..32 of a-z, 0-9, ``_`` and ``-``.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(f"key name {name!r}: must be 1..32 of a-z, 0-9, _ and -, not starting with _ or -")
    return name


def make_pair(folder: Path) -> KeyPair:
    """Make this machine's pair; an existing one is never replaced.

    Raises:
        ConfigError: there is one already.
        SetupError: it cannot be written, or the folder is open to others.
    """
    _check_curve()
    path = folder / OWN
    public, secret = zmq.curve_keypair()
    while public.startswith(b"-"):  # a command line would take it for an option
        public, secret = zmq.curve_keypair()
    pair = KeyPair(public.decode(), secret.decode())
    _make_folder(folder)
    try:
        _write_new(path, f'curve\n    public-key = "{pair.public}"\n    secret-key = "{pair.secret}"\n')
    except FileExistsError:
        raise ConfigError(f"{path} exists; remove it first, if its key is to be replaced") from None
    return pair


def own_pair(folder: Path) -> KeyPair:
    """This machine's pair.

    Raises:
        ConfigError: there is none, others may read it, or it is no key.
    """
    path = folder / OWN
    found = _read(path, "make one: ntbnet keys new", private=True)
    try:
        public = zmq.curve_public(found.get("secret", "").encode()).decode()
    except (ValueError, zmq.ZMQError):
        public = ""
    if not public or public != found.get("public"):
        raise ConfigError(f"{path}: holds no key pair; remove it and make one: ntbnet keys new")
    return KeyPair(found["public"], found["secret"])


def allow(folder: Path, name: str, public: str) -> bool:
    """Let the machine with that public key in, under that name.

    Returns:
        False when it was allowed under that name already.

    Raises:
        ConfigError: name or key are malformed, or the name or the key is taken.
        SetupError: it cannot be written.
    """
    check_key_name(name)
    check_public_key(public)
    known = allowed_keys(folder) if folder.exists() else {}
    if known.get(name) == public:
        return False
    if name in known:
        raise ConfigError(f"key name {name!r}: is taken by another key; first: ntbnet keys forget {name}")
    same = [other for other, key in known.items() if key == public]
    if same:
        raise ConfigError(f"public key {public}: is allowed already, under the name {same[0]}")
    _make_folder(folder)
    _make_folder(folder / ALLOWED)
    try:
        _write_new(folder / ALLOWED / f"{name}.pub", f'curve\n    public-key = "{public}"\n')
    except FileExistsError:
        raise ConfigError(f"key name {name!r}: is taken") from None
    return True


def forget(folder: Path, name: str) -> None:
    """Let that machine in no more; what is connected stays so until the services restart.

    Raises:
        ConfigError: no key has that name.
    """
    try:
        (folder / ALLOWED / f"{check_key_name(name)}.pub").unlink()
    except FileNotFoundError:
        raise ConfigError(f"key name {name!r}: no key is allowed under it in {folder}") from None
    except OSError as problem:
        raise SetupError(f"cannot remove it: {problem}") from None


def allowed_keys(folder: Path) -> dict[str, str]:
    """Name -> public key of every machine that may connect.

    Raises:
        ConfigError: a file is no public key, others may write it, or there are too many.
    """
    try:
        paths = sorted((folder / ALLOWED).glob("*.pub"))
    except OSError as problem:
        raise ConfigError(f"{folder / ALLOWED}: cannot be read: {problem.strerror}") from None
    if len(paths) > MAX_ALLOWED:
        raise ConfigError(f"{folder / ALLOWED}: {len(paths)} keys, at most {MAX_ALLOWED} are allowed")
    found = {}
    for path in paths:
        keys = _read(path, "see ntbnet keys allow", private=False)
        if "secret" in keys:
            raise ConfigError(
                f"{path}: holds a secret key; only the public one of another machine belongs here"
            )
        if "public" not in keys or not _NAME.fullmatch(path.stem):
            raise ConfigError(f"{path}: holds no public key under a good name; see ntbnet keys allow")
        found[path.stem] = check_public_key(keys["public"])
    return found


def load_ring(config: Config) -> KeyRing | None:
    """The keys that the configuration asks for; None when both nodes run on this machine.

    Raises:
        ConfigError: a key is missing or unusable. Plaintext is no way out.
        SetupError: libzmq was built without CURVE.
    """
    if not config.is_apart:
        return None
    _check_curve()
    folder = Path(config.machine.keys)
    own = own_pair(folder)
    allowed = allowed_keys(folder)
    chosen = config.machine.peer_key
    where = f"machine.keys = {str(folder)!r}"
    if not allowed:
        raise ConfigError(f"{where}: no other machine is allowed; give its key: ntbnet keys allow NAME KEY")
    if not chosen and len(allowed) > 1:
        names = ", ".join(allowed)
        raise ConfigError(f'machine.peer_key = "": must be one of {names}: several machines are allowed')
    if chosen and chosen not in allowed:
        names = ", ".join(allowed)
        raise ConfigError(f'machine.peer_key = "{chosen}": must be the name of an allowed key: {names}')
    return KeyRing(own, allowed, allowed[chosen] if chosen else next(iter(allowed.values())))


def _check_curve() -> None:
    if not zmq.has("curve"):
        raise SetupError(
            "this libzmq was built without CURVE; install pyzmq from its wheel: pip install pyzmq"
        )


def _read(path: Path, how: str, *, private: bool) -> dict[str, str]:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such key, and plaintext is refused between machines; {how}") from None
    except OSError as problem:
        raise ConfigError(f"{path}: cannot be read: {problem.strerror}") from None
    with os.fdopen(fd, "rb") as file:
        found = os.fstat(fd)
        forbidden = 0o077 if private else 0o022
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & forbidden:
            others = "read" if private else "change"
            mode = f"mode {stat.S_IMODE(found.st_mode):04o}, owner {found.st_uid}"
            raise ConfigError(f"{path}: others may {others} it ({mode}): chmod 600, and owned by this user")
        content = file.read(_MAX_FILE_BYTES).decode("ascii", errors="replace")
    return dict(_LINE.findall(content))


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.stat()
    except OSError as problem:
        raise SetupError(f"cannot make folder {folder}: {problem.strerror}") from None
    if found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise SetupError(f"{folder}: others may change it; chmod 700, and owned by this user")


def _write_new(path: Path, content: str) -> None:
    """Write a file, 0600, that does not exist yet, whole or not at all. FileExistsError when it does."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, content.encode())
            os.fsync(fd)
        finally:
            os.close(fd)
        try:
            os.link(aside, path)
        finally:
            aside.unlink()
    except FileExistsError:
        raise
    except OSError as problem:
        raise SetupError(f"cannot write {path}: {problem.strerror}") from None
