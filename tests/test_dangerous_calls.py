"""What lets bytes become code is not used: no pickle, no shell, no eval."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MODULES = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "jsonpickle"}
BUILTINS = {"eval", "exec", "compile", "__import__"}
METHODS = {"recv_pyobj", "send_pyobj", "system", "popen", "getoutput", "getstatusoutput"}


def complaints(source: str, where: str) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        found += [f"{where}:{node.lineno}: {name}" for name in names if name.split(".")[0] in MODULES]  # type: ignore[attr-defined]  # only imports have names
        if not isinstance(node, ast.Call):
            continue
        if isinstance(node.func, ast.Name) and node.func.id in BUILTINS:
            found.append(f"{where}:{node.lineno}: {node.func.id}")
        if isinstance(node.func, ast.Attribute) and node.func.attr in METHODS:
            found.append(f"{where}:{node.lineno}: {node.func.attr}")
        for keyword in node.keywords:
            if keyword.arg == "shell" and not (
                isinstance(keyword.value, ast.Constant) and keyword.value.value is False
            ):
                found.append(f"{where}:{node.lineno}: shell")
    return found


def test_bytes_never_become_code() -> None:
    files = sorted([*ROOT.glob("ntbnet/**/*.py"), *ROOT.glob("services/**/*.py")])
    assert len(files) > 50

    assert [one for file in files for one in complaints(file.read_text(), str(file.relative_to(ROOT)))] == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "def f():\n    import marshal",
        "eval('1')",
        "exec(text)",
        "socket.recv_pyobj()",
        "os.system('ls')",
        "subprocess.run('ls', shell=True)",
        "subprocess.run('ls', shell=wanted)",
    ],
)
def test_dangerous_call_is_found(source: str) -> None:
    assert len(complaints(source, "test")) == 1


@pytest.mark.parametrize("source", ["os.execvp('ls', ['ls'])", "re.compile('x')", "run(words, shell=False)"])
def test_harmless_call_is_not_complained_about(source: str) -> None:
    assert complaints(source, "test") == []
