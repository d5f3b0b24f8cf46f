from __future__ import annotations

import os
from pathlib import Path

import pytest
import zmq
from zmq.auth import load_certificate

from ntbnet.config import load_text
from ntbnet.edge import keys
from ntbnet.errors import ConfigError, SetupError


def other_key() -> str:
    return zmq.curve_keypair()[0].decode()


def apart(folder: Path, extra: str = "") -> str:
    return f"""
[bridge]
fabric = "message"
[machine]
node = "rc"
listen = "192.0.2.1"
peer = "192.0.2.2"
keys = "{folder}"
{extra}
"""


def ring_of(folder: Path, extra: str = "") -> keys.KeyRing:
    ring = keys.load_ring(load_text(apart(folder, extra), "test"))
    assert ring is not None
    return ring


def test_new_pair_is_a_certificate_that_only_its_owner_may_read(tmp_path: Path) -> None:
    pair = keys.make_pair(tmp_path / "keys")

    path = tmp_path / "keys" / keys.OWN
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert load_certificate(path) == (pair.public.encode(), pair.secret.encode())
    assert keys.own_pair(tmp_path / "keys") == pair
    assert [entry.name for entry in path.parent.iterdir()] == [keys.OWN]


def test_pair_is_never_shown_with_its_secret(tmp_path: Path) -> None:
    pair = keys.make_pair(tmp_path)

    assert pair.public in repr(pair)
    assert pair.secret not in repr(pair)


def test_existing_pair_is_not_replaced(tmp_path: Path) -> None:
    pair = keys.make_pair(tmp_path)

    with pytest.raises(ConfigError, match="exists"):
        keys.make_pair(tmp_path)

    assert keys.own_pair(tmp_path) == pair


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_pair_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    keys.make_pair(tmp_path)
    (tmp_path / keys.OWN).chmod(mode)

    with pytest.raises(ConfigError, match=f"others may read it .mode {mode:04o}.*chmod 600"):
        keys.own_pair(tmp_path)


def test_pair_behind_a_symbolic_link_is_refused(tmp_path: Path) -> None:
    keys.make_pair(tmp_path / "elsewhere")
    (tmp_path / keys.OWN).symlink_to(tmp_path / "elsewhere" / keys.OWN)

    with pytest.raises(ConfigError, match="cannot be read"):
        keys.own_pair(tmp_path)


@pytest.mark.parametrize("content", ["", "curve\n", "\0" * 5000, 'public-key = "x"\n', "é" * 100])
def test_file_without_a_pair_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / keys.OWN).write_text(content, encoding="utf-8")
    (tmp_path / keys.OWN).chmod(0o600)

    with pytest.raises(ConfigError, match="holds no key pair"):
        keys.own_pair(tmp_path)


def test_pair_whose_halves_do_not_belong_together_is_refused(tmp_path: Path) -> None:
    pair = keys.make_pair(tmp_path)
    path = tmp_path / keys.OWN
    path.write_text(path.read_text().replace(pair.public, other_key()))

    with pytest.raises(ConfigError, match="holds no key pair"):
        keys.own_pair(tmp_path)


def test_allowed_machine_can_be_forgotten(tmp_path: Path) -> None:
    key = other_key()

    assert keys.allow(tmp_path, "lab", key) is True
    assert keys.allow(tmp_path, "lab", key) is False
    assert keys.allowed_keys(tmp_path) == {"lab": key}
    keys.forget(tmp_path, "lab")
    assert keys.allowed_keys(tmp_path) == {}
    with pytest.raises(ConfigError, match="no key is allowed"):
        keys.forget(tmp_path, "lab")


def test_name_or_key_cannot_be_allowed_twice(tmp_path: Path) -> None:
    key = other_key()
    keys.allow(tmp_path, "lab", key)

    with pytest.raises(ConfigError, match="taken by another key"):
        keys.allow(tmp_path, "lab", other_key())
    with pytest.raises(ConfigError, match="is allowed already, under the name lab"):
        keys.allow(tmp_path, "other", key)


@pytest.mark.parametrize("key", ["", "short", "x" * 41, '"' * 40, "%" * 40, "ä" * 40])
def test_malformed_public_key_is_refused(tmp_path: Path, key: str) -> None:
    with pytest.raises(ConfigError, match="must be 40 characters of Z85"):
        keys.allow(tmp_path, "lab", key)

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["", "../x", "Lab", "a b", "-x", "a" * 33, "a/b"])
def test_malformed_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"must be 1\.\.32"):
        keys.allow(tmp_path, name, other_key())


def test_secret_key_among_the_allowed_is_refused(tmp_path: Path) -> None:
    keys.make_pair(tmp_path)
    (tmp_path / keys.ALLOWED).mkdir()
    (tmp_path / keys.OWN).rename(tmp_path / keys.ALLOWED / "lab.pub")

    with pytest.raises(ConfigError, match="holds a secret key"):
        keys.allowed_keys(tmp_path)


def test_allowed_key_that_others_may_change_is_refused(tmp_path: Path) -> None:
    keys.allow(tmp_path, "lab", other_key())
    (tmp_path / keys.ALLOWED / "lab.pub").chmod(0o622)

    with pytest.raises(ConfigError, match="others may change it"):
        keys.allowed_keys(tmp_path)


def test_key_of_another_user_is_refused(tmp_path: Path) -> None:
    keys.make_pair(tmp_path)
    os.chown(tmp_path / keys.OWN, 65534, 65534)

    with pytest.raises(ConfigError, match="owner 65534"):
        keys.own_pair(tmp_path)


def test_folder_that_others_may_change_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)

    with pytest.raises(SetupError, match="others may change it"):
        keys.make_pair(tmp_path)


def test_both_nodes_on_one_machine_need_no_key(tmp_path: Path) -> None:
    assert keys.load_ring(load_text("", "test")) is None


def test_node_alone_without_a_key_is_refused_plaintext(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"plaintext is refused.*ntbnet keys new"):
        ring_of(tmp_path / "none")


def test_libzmq_without_curve_is_refused_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zmq, "has", lambda capability: capability != "curve")

    for action in (lambda: keys.make_pair(tmp_path), lambda: ring_of(tmp_path)):
        with pytest.raises(SetupError, match="without CURVE"):
            action()


def test_node_alone_that_allows_nobody_is_refused(tmp_path: Path) -> None:
    keys.make_pair(tmp_path)

    with pytest.raises(ConfigError, match=r"no other machine is allowed.*ntbnet keys allow"):
        ring_of(tmp_path)


def test_only_allowed_key_is_the_peers(tmp_path: Path) -> None:
    keys.make_pair(tmp_path)
    key = other_key()
    keys.allow(tmp_path, "lab", key)

    assert ring_of(tmp_path).peer == key


def test_one_of_several_allowed_keys_is_chosen_by_name(tmp_path: Path) -> None:
    keys.make_pair(tmp_path)
    old, new = other_key(), other_key()
    keys.allow(tmp_path, "old", old)
    keys.allow(tmp_path, "new", new)

    assert ring_of(tmp_path, 'peer_key = "new"').peer == new
    with pytest.raises(ConfigError, match=r'machine\.peer_key = "": must be one of new, old'):
        ring_of(tmp_path)
    with pytest.raises(ConfigError, match=r'machine\.peer_key = "lab": must be the name of an allowed key'):
        ring_of(tmp_path, 'peer_key = "lab"')


def test_two_machines_seed_their_checksums_alike_and_no_third_one_does(tmp_path: Path) -> None:
    folders = {name: tmp_path / name for name in ("rc", "ep", "third")}
    pairs = {name: keys.make_pair(folder) for name, folder in folders.items()}
    keys.allow(folders["rc"], "peer", pairs["ep"].public)
    keys.allow(folders["ep"], "peer", pairs["rc"].public)
    keys.allow(folders["third"], "peer", pairs["rc"].public)

    seeds = {name: ring_of(folder).path_key for name, folder in folders.items()}

    assert seeds["rc"] == seeds["ep"] != seeds["third"]
