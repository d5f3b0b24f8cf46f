"""Every test of the whole bridge runs in both fabrics; ``@pytest.mark.fabric("message")`` names one."""

from __future__ import annotations

import pytest

from tests.sim import world


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One case for each fabric."""
    marker = metafunc.definition.get_closest_marker("fabric")
    metafunc.parametrize("fabric", marker.args if marker else ("local", "message"), indirect=True)


@pytest.fixture(autouse=True)
def fabric(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The fabric of every world that the test makes, unless it names one itself."""
    name: str = request.param
    monkeypatch.setattr(world, "FABRIC", name)
    return name
