"""The files that people run or copy: sample configuration, Procfile, launcher, systemd unit."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from ntbnet.config import Sections, load_text, shared_identity, to_dict
from ntbnet.edge.idle_cores import CPU_LATENCY
from ntbnet.edge.tun import TUN_DEVICE
from ntbnet.profile import SHIPPED
from ntbnet.schema import Integer, keys

ROOT = Path(__file__).resolve().parent.parent
SAMPLE = ROOT / "deploy" / "ntbnet.toml"
UNIT = ROOT / "deploy" / "ntbnet.service"
LAUNCHER = ROOT / "deploy" / "service"

SHOW_ARGUMENTS = "import sys\nprint(sys.executable, sys.argv[1:])\n"


def field_docs() -> dict[str, str]:
    """The docstring under each field of the configuration tree, by dotted key."""
    tree = ast.parse((ROOT / "ntbnet" / "sections.py").read_text(encoding="utf-8"))
    by_class: dict[str, dict[str, str]] = {}
    for cls in (node for node in tree.body if isinstance(node, ast.ClassDef)):
        docs = by_class.setdefault(cls.name, {})
        for field, doc in zip(cls.body, cls.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(doc, ast.Expr):
                assert isinstance(field.target, ast.Name)
                docs[field.target.id] = " ".join(str(ast.literal_eval(doc.value)).split())
    found = {}
    for key in keys(Sections):
        section: object = Sections()
        *path, leaf = key.name.split(".")
        for part in path:
            section = getattr(section, part)
        found[key.name] = by_class[type(section).__name__].get(leaf, "")
    return found


def everything_set(text: str) -> str:
    """A sample with the keys that it leaves to the profile set."""
    return re.sub(r"(?m)^#(?=[a-z])", "", text)


def sample_comments() -> dict[str, str]:
    """The comment lines right above each key of the sample, joined, by dotted key."""
    found, section, comment = {}, "", []
    for line in everything_set(SAMPLE.read_text(encoding="utf-8")).splitlines():
        if line.startswith("# "):
            comment.append(line[2:])
        elif line.startswith("["):
            section, comment = line.strip("[]"), []
        elif line:
            found[f"{section}.{line.partition(' = ')[0]}"] = " ".join(comment)
            comment = []
    return found


def test_sample_configuration_is_complete_and_equals_the_defaults() -> None:
    text = SAMPLE.read_text(encoding="utf-8")

    assert load_text(everything_set(text), "sample") == load_text("", "defaults")
    assert tomllib.loads(everything_set(text)) == to_dict(load_text("", "defaults"))


@pytest.mark.parametrize("profile", SHIPPED)
def test_sample_configuration_leaves_to_each_profile_what_profiles_set(profile: str) -> None:
    text = SAMPLE.read_text(encoding="utf-8")

    assert load_text(text, "sample", profile=profile) == load_text("", "defaults", profile=profile)


def test_sample_configuration_explains_each_key_as_the_code_does() -> None:
    assert sample_comments() == field_docs()


def test_explanation_of_each_integer_names_its_range() -> None:
    docs = field_docs()
    silent = [
        key.name
        for key in keys(Sections)
        if isinstance(key.rule, Integer)
        and key.rule.low < key.rule.high
        and f"{key.rule.written(key.rule.low)}..{key.rule.written(key.rule.high)}" not in docs[key.name]
    ]

    assert silent == []


@pytest.mark.parametrize("node", ["rc", "ep"])
def test_sample_of_one_machine_runs_one_node_and_fits_the_other_ones(node: str) -> None:
    mine, other = (
        load_text((ROOT / "deploy" / f"ntbnet-{name}.toml").read_text(encoding="utf-8"), "sample")
        for name in (node, {"rc": "ep", "ep": "rc"}[node])
    )

    assert mine.nodes == (node,)
    assert mine.machine.peer == other.machine.listen
    assert mine.machine.base_port == other.machine.base_port
    assert shared_identity(mine) == shared_identity(other)


def procfile() -> dict[str, str]:
    lines = (ROOT / "Procfile").read_text(encoding="utf-8").splitlines()
    return {name: command for name, _, command in (line.partition(": ") for line in lines)}


def test_procfile_names_the_five_processes() -> None:
    assert list(procfile()) == ["rc-host", "epc", "edma", "peer-rc", "peer-ep"]


@pytest.mark.parametrize("name", ["rc-host", "epc", "edma", "peer-rc", "peer-ep"])
def test_procfile_line_starts_an_existing_module_with_the_sample_configuration(name: str) -> None:
    launcher, module, *arguments = procfile()[name].split()

    assert os.access(ROOT / launcher, os.X_OK)
    assert (ROOT / "services" / f"{module}.py").is_file()
    config = ["--config", "${NTBNET_CONFIG:-deploy/ntbnet.toml}"]
    assert arguments[-4:] == ["--name", "${NTBNET_NAME:-ntbnet}", *config]
    assert arguments[:-4] == (["--node", name.removeprefix("peer-")] if module == "peer" else [])


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree with the launcher and one service that prints its interpreter and arguments."""
    (tmp_path / "deploy").mkdir()
    shutil.copy(LAUNCHER, tmp_path / "deploy" / "service")
    services = tmp_path / "services"
    services.mkdir()
    (services / "__init__.py").touch()
    (services / "edma.py").write_text(SHOW_ARGUMENTS, encoding="utf-8")
    return tmp_path


def run(command: list[str | Path], cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if name not in {"PYTHON", "PYTHONPATH"}}
    return subprocess.run(
        command, cwd=cwd, env=clean | env, capture_output=True, text=True, timeout=60, check=False
    )


def interpreter(tmp: Path, name: str) -> Path:
    """A Python under another name, which says that name instead of running anything."""
    path = tmp / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'#!/bin/sh\necho "this is {name}" "$@"\n', encoding="utf-8")
    path.chmod(0o755)
    return path


def test_launcher_takes_python_from_the_environment_first(tree: Path) -> None:
    chosen = interpreter(tree, "chosen")

    done = run([tree / "deploy" / "service", "edma", "--x", "a b"], tree, PYTHON=str(chosen))

    assert done.stdout == "this is chosen -m services.edma --x a b\n"


def test_launcher_takes_the_python_that_runs_its_parent(tree: Path) -> None:
    interpreter(tree, ".venv/bin/python")

    done = run([tree / "deploy" / "service", "edma", "--x", "a b"], tree)

    assert done.stdout == f"{sys.executable} ['--x', 'a b']\n"


def test_launcher_takes_the_python_above_a_shell(tree: Path) -> None:
    done = run(["sh", "-c", "deploy/service edma; exit $?"], tree)

    assert done.stdout == f"{sys.executable} []\n"


def test_launcher_takes_the_trees_environment_below_anything_else(tree: Path) -> None:
    interpreter(tree, ".venv/bin/python")

    done = run(["sh", "-c", "sh -c 'sh -c \"deploy/service edma; :\"; :'; :"], tree)

    assert done.stdout == "this is .venv/bin/python -m services.edma\n"


def test_launcher_takes_python3_of_the_path_last(tree: Path) -> None:
    interpreter(tree, "bin/python3")

    done = run(
        ["sh", "-c", "sh -c 'sh -c \"deploy/service edma; :\"; :'; :"],
        tree,
        PATH=f"{tree / 'bin'}:{os.environ['PATH']}",
    )

    assert done.stdout == "this is bin/python3 -m services.edma\n"


def test_launcher_passes_the_services_exit_code_on(tree: Path) -> None:
    (tree / "services" / "edma.py").write_text("raise SystemExit(2)\n", encoding="utf-8")

    assert run([tree / "deploy" / "service", "edma"], tree).returncode == 2


def test_launcher_works_from_any_folder(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    done = run([tree / "deploy" / "service", "edma"], tmp_path_factory.mktemp("elsewhere"))

    assert done.stdout == f"{sys.executable} []\n"


@pytest.mark.parametrize("name", ["", "no_such", "../edma", "edma;ls", "Edma", "__init__/.."])
def test_launcher_refuses_what_is_no_service(tree: Path, name: str) -> None:
    done = run([tree / "deploy" / "service", name], tree)

    assert done.returncode == 2
    assert done.stderr.startswith("usage: deploy/service ")


def exec_start() -> list[str]:
    (line,) = re.findall(r"(?m)^ExecStart=(.*)$", UNIT.read_text(encoding="utf-8"))
    return str(line).split()


def test_unit_starts_an_existing_program_by_its_absolute_path() -> None:
    program = Path(exec_start()[0])

    assert program.is_absolute()
    assert os.access(program, os.X_OK)


def test_unit_runs_a_command_line_that_ntbnet_has() -> None:
    _, ntbnet, command, *options = exec_start()
    script = f"import sys; from {ENTRY_MODULE} import {ENTRY_FUNCTION} as main; sys.exit(main())"

    done = run(
        [sys.executable, "-c", script, command, "--help"], ROOT, COLUMNS="200", NO_COLOR="1", TERM="dumb"
    )

    assert ntbnet == "ntbnet"
    assert done.returncode == 0, done.stderr
    assert options[::2] == ["-c"]
    assert all(option in done.stdout for option in options[::2])


def project() -> dict[str, dict[str, object]]:
    with (ROOT / "pyproject.toml").open("rb") as file:
        return tomllib.load(file)


ENTRY_MODULE, _, ENTRY_FUNCTION = project()["project"]["scripts"]["ntbnet"].partition(":")  # type: ignore[index] # plain TOML


def test_unit_lets_services_have_every_device_that_they_open() -> None:
    allowed = re.findall(r"(?m)^DeviceAllow=(\S+) rw$", UNIT.read_text(encoding="utf-8"))

    assert {str(TUN_DEVICE), str(CPU_LATENCY)} == set(allowed)


def test_unit_verifies() -> None:
    assert shutil.which("systemd-analyze"), "apt-get install systemd"

    done = run(["systemd-analyze", "verify", "--man=no", str(UNIT)], ROOT)

    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("script", [LAUNCHER, ROOT / ".ci" / "run"], ids=["service", "ci"])
def test_shell_script_is_executable_and_parses(script: Path) -> None:
    shell = script.read_text(encoding="utf-8").splitlines()[0].rpartition("/")[2].split()[-1]

    assert os.access(script, os.X_OK)
    assert run([shell, "-n", script], ROOT).returncode == 0


def test_version_is_the_same_in_package_and_project() -> None:
    from ntbnet import __version__

    assert project()["project"]["version"] == __version__
