"""What every unit test has."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ntbnet.edge import trace_folder


@pytest.fixture(scope="session", autouse=True)
def _no_rings_in_shared_memory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Run folders of unit tests go with their tmp_path; what they have in /dev/shm would stay."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trace_folder, "_SHM", tmp_path_factory.mktemp("shm"))
        yield
