"""How ``make test`` spreads modules over its workers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import ALONE, ONE_NAME, AloneLast

MODULES = [
    *sorted(ONE_NAME),
    "tests/system/test_traffic.py",
    "tests/unit/test_wire.py",
    "tests/sim/test_faults.py",
    "tests/chaos/test_scenarios.py",
    *(f"tests/system/{name}" for name in sorted(ALONE)),
]
"""As they are collected: what measures is last."""


class Worker:
    """What the scheduler sees of a worker, which holds its last test until it is told what follows."""

    def __init__(self, name: str) -> None:
        self.gateway = SimpleNamespace(id=name)
        self.given: list[int] = []
        self.shutting_down = False

    def send_runtest_some(self, indices: list[int]) -> None:
        self.given += indices

    def shutdown(self) -> None:
        self.shutting_down = True


def run(collection: list[str], workers: int) -> list[tuple[str, str, int]]:
    """Worker, test and number of workers that were there, of each test in its order."""
    option = SimpleNamespace(loadscopereorder=False)
    config: Any = SimpleNamespace(getvalue=lambda _: ["popen"] * workers, option=option)
    scheduler = AloneLast(config)
    for number in range(workers):
        node: Any = Worker(f"gw{number}")
        scheduler.add_node(node)
        scheduler.add_node_collection(node, collection)
    scheduler.schedule()
    history: list[tuple[str, str, int]] = []
    state: list[object] = []
    while scheduler.nodes:
        for worker in scheduler.nodes:
            if len(worker.given) > 1 or (worker.given and worker.shutting_down):
                index = worker.given.pop(0)
                history.append((worker.gateway.id, collection[index], len(scheduler.nodes)))
                scheduler.mark_test_complete(worker, index)
            elif worker.shutting_down:
                assert scheduler.remove_node(worker) is None
        if scheduler.tests_finished:
            for worker in scheduler.nodes:
                worker.shutdown()
        before, state = state, [len(history), *((node, node.shutting_down) for node in scheduler.nodes)]
        assert state != before, f"stuck after {history}"
    return history


def module_of(test: str) -> str:
    return test.partition("::")[0]


@given(
    sizes=st.lists(st.integers(0, 4), min_size=len(MODULES), max_size=len(MODULES)).filter(any),
    workers=st.integers(1, 4),
)
def test_every_test_runs_once_and_what_measures_runs_last_and_alone(sizes: list[int], workers: int) -> None:
    collection = [
        f"{module}::test_{n}" for module, size in zip(MODULES, sizes, strict=True) for n in range(size)
    ]

    history = run(collection, workers)

    assert sorted(test for _, test, _ in history) == sorted(collection)
    alone = [number for number, (_, test, _) in enumerate(history) if module_of(test).endswith(tuple(ALONE))]
    assert alone == list(range(len(history) - len(alone), len(history)))
    assert all(history[number][2] == 1 for number in alone)
    assert len({worker for worker, test, _ in history if module_of(test) in ONE_NAME}) <= 1
