from __future__ import annotations

import json
from pathlib import Path

import pytest
import zmq
from typer.testing import CliRunner

from ntbnet.app.keys_cli import app
from ntbnet.edge import keys
from ntbnet.errors import ConfigError

RUN = CliRunner()


def run(folder: Path, *words: str) -> str:
    """Stdout of ``ntbnet keys``, which has to succeed."""
    done = RUN.invoke(app, [words[0], "--dir", str(folder), *words[1:]], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def refusal(folder: Path, *words: str) -> str:
    done = RUN.invoke(app, [words[0], "--dir", str(folder), *words[1:]])
    assert isinstance(done.exception, ConfigError), done.output
    return str(done.exception)


def test_new_prints_the_public_key_alone_and_show_prints_it_again(tmp_path: Path) -> None:
    printed = run(tmp_path, "new")

    pair = keys.own_pair(tmp_path)
    assert printed == f"{pair.public}\n"
    assert run(tmp_path, "show") == printed
    assert not pair.public.startswith("-")


def test_secret_key_is_never_printed(tmp_path: Path) -> None:
    run(tmp_path, "new")
    secret = keys.own_pair(tmp_path).secret

    for words in (["show"], ["show", "--json"]):
        assert secret not in RUN.invoke(app, [*words, "--dir", str(tmp_path)]).output


def test_allowed_machines_are_shown_until_they_are_forgotten(tmp_path: Path) -> None:
    run(tmp_path, "new")
    key = zmq.curve_keypair()[0].decode()

    run(tmp_path, "allow", "--", "lab", key)
    shown = json.loads(run(tmp_path, "show", "--json"))
    run(tmp_path, "forget", "lab")

    public = keys.own_pair(tmp_path).public
    assert shown == {"folder": str(tmp_path), "public": public, "allowed": {"lab": key}}
    assert json.loads(run(tmp_path, "show", "--json"))["allowed"] == {}


def test_folder_comes_from_the_configuration(tmp_path: Path) -> None:
    config = tmp_path / "ntbnet.toml"
    config.write_text(f'[machine]\nkeys = "{tmp_path}/mine"\n')

    done = RUN.invoke(app, ["new", "--config", str(config)], catch_exceptions=False)

    assert done.exit_code == 0
    assert keys.own_pair(tmp_path / "mine").public == done.stdout.strip()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("show",), "make one: ntbnet keys new"),
        (("allow", "lab", "x"), "must be 40 characters of Z85"),
        (("allow", "Lab", "x"), "key name 'Lab': must be"),
        (("forget", "lab"), "no key is allowed under it"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line(
    tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    line = refusal(tmp_path, *words)

    assert said in line
    assert "\n" not in line
