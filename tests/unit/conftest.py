"""Unit tests make run folders by the dozen and leave them to their temporary folders."""

from __future__ import annotations

from pathlib import Path

import pytest

from ntbnet.edge import trace_folder


@pytest.fixture(scope="session")
def instead_of_shm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shm")


@pytest.fixture(autouse=True)
def trace_folders_are_temporary(monkeypatch: pytest.MonkeyPatch, instead_of_shm: Path) -> None:
    monkeypatch.setattr(trace_folder, "_SHM", instead_of_shm)
