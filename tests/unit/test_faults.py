from __future__ import annotations

import tomllib
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntbnet.errors import ConfigError
from ntbnet.faults import (
    KINDS,
    MAX_RULES,
    PLACES,
    FaultPlan,
    FaultRule,
    decide,
    from_body,
    plan_from,
    rules_from,
    to_body,
)
from ntbnet.topology import PATHS, SERVICES

GOLDEN = 0x2D53FB71
"""Bits that runs of earlier releases decided by: a seed in a bug report must go on meaning the same."""
SAMPLE = """
seed = 7

[[faults]]
kind = "drop"
src = "peer-rc"
dst = "epc"
of = ["write", "completion"]
rate = 100

[[faults]]
kind = "cut"
src = "epc"
at = [12, 40]
delay_us = 0
limit = 1
"""


def test_plan_is_read_from_toml() -> None:
    plan = plan_from(tomllib.loads(SAMPLE), "sample")

    assert plan == FaultPlan(
        7,
        (
            FaultRule("drop", src="peer-rc", dst="epc", of=("write", "completion"), rate=100),
            FaultRule("cut", src="epc", at=(12, 40), delay_us=0, limit=1),
        ),
    )


def test_two_rules_of_a_kind_have_dice_of_their_own_and_others_change_nothing() -> None:
    one, two = FaultRule("drop", rate=300_000), FaultRule("drop", rate=300_000)
    alone = FaultPlan(7, (one,))
    plan = FaultPlan(7, (FaultRule("delay", rate=5), one, FaultRule("ur", rate=5), two))

    def hit(plan: FaultPlan, index: int) -> list[bool]:
        rule, dice = plan.faults[index], plan.dice(index)
        return [rule.strikes(plan.seed, "peer-rc>epc", number, dice) for number in range(2000)]

    assert hit(plan, 1) == hit(alone, 0)
    assert [one.strikes(7, "peer-rc>epc", number) for number in range(2000)] == hit(alone, 0)
    both = sum(a and b for a, b in zip(hit(plan, 1), hit(plan, 3), strict=True))
    assert 120 < both < 240  # 0.3 * 0.3 of 2000 are 180
    assert len({plan.dice(index) for index in range(4)}) == 4


def test_plan_survives_the_way_to_a_service_and_back() -> None:
    plan = plan_from(tomllib.loads(SAMPLE), "sample")

    assert from_body(to_body(plan)) == plan
    assert from_body(to_body(FaultPlan())) == FaultPlan()


@pytest.mark.parametrize(
    ("rule", "complaint"),
    [
        ({}, "faults[0].kind is missing"),
        ({"kind": "explode", "rate": 1}, "faults[0].kind = 'explode': must be \"drop\" or"),
        ({"kind": "drop"}, "faults[0]: exactly one of rate, every and at must be given"),
        ({"kind": "drop", "rate": 1, "every": 2}, "exactly one of rate, every and at"),
        ({"kind": "drop", "rate": 0}, "faults[0].rate = 0: must be an integer 1..1000000"),
        ({"kind": "drop", "rate": 1_000_001}, "faults[0].rate = 1000001: must be an integer 1..1000000"),
        ({"kind": "drop", "rate": True}, "faults[0].rate = true: must be an integer"),
        ({"kind": "drop", "rate": 0.5}, "faults[0].rate = 0.5: must be an integer"),
        ({"kind": "drop", "every": 0}, "faults[0].every = 0: must be"),
        ({"kind": "drop", "at": []}, "faults[0].at = an array: must be an array of 1..4096 integers"),
        ({"kind": "drop", "at": [-1]}, "faults[0].at = an array: must be"),
        ({"kind": "drop", "at": [True]}, "faults[0].at = an array: must be"),
        ({"kind": "drop", "rate": 1, "src": "host"}, "faults[0].src = 'host': must be \"rc-host\" or"),
        ({"kind": "drop", "rate": 1, "src": "epc", "dst": "epc"}, "src = dst = 'epc': no path"),
        ({"kind": "drop", "rate": 1, "of": ["frame"]}, "faults[0].of = an array: must be"),
        ({"kind": "drop", "rate": 1, "of": ["sent"]}, "of = ['sent']: must be of call, completion"),
        ({"kind": "drop-frame", "rate": 1, "of": ["write"]}, "of = ['write']: must be of received, sent"),
        ({"kind": "drop", "rate": 1, "of": "write"}, "faults[0].of = 'write': must be an array"),
        ({"kind": "drop", "rate": 1, "service": "epc"}, "service means nothing for kind = 'drop'"),
        ({"kind": "slow", "rate": 1, "src": "epc"}, "src means nothing for kind = 'slow'"),
        ({"kind": "ur", "rate": 1, "of": ["read"]}, "of means nothing for kind = 'ur'"),
        ({"kind": "drop", "rate": 1, "delay_us": 5}, "delay_us means nothing for kind = 'drop'"),
        ({"kind": "delay", "rate": 1, "delay_us": 60_000_001}, "faults[0].delay_us = 60000001: must be"),
        ({"kind": "corrupt", "rate": 1, "bytes": 0}, "faults[0].bytes = 0: must be an integer 1..4096"),
        ({"kind": "drop", "rate": 1, "ratio": 1}, "faults[0].ratio = 1: unknown key"),
        (5, "faults[0] = 5: must be a table"),
    ],
)
def test_impossible_rule_is_one_line_that_says_what_is_wrong(rule: Any, complaint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        plan_from({"faults": [rule]}, "plan.toml")

    assert str(caught.value).startswith("plan.toml: ")
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("table", "complaint"),
    [
        ([], "must be a table"),
        ({"seed": -1}, "seed = -1: must be"),
        ({"faults": {}}, "faults = a table: must be an array of tables"),
        (
            {"faults": [{"kind": "drop", "rate": 1}] * (MAX_RULES + 1)},
            "faults has 33 rules: must be at most 32",
        ),
    ],
)
def test_impossible_plan_is_refused(table: Any, complaint: str) -> None:
    with pytest.raises(ConfigError, match=r".*") as caught:
        plan_from(table, "plan.toml")

    assert complaint in str(caught.value)


_JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(list(KINDS)),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["kind", "rate", "at", "of", "src", "seed", "faults", "x"]), inner)
    ),
    max_leaves=8,
)


@given(_JUNK)
def test_whatever_comes_is_a_plan_or_refused(junk: Any) -> None:
    try:
        plan = from_body(junk)
    except ConfigError:
        return
    assert from_body(to_body(plan)) == plan


def test_rules_alone_are_read_the_same_way() -> None:
    assert rules_from([{"kind": "slow", "every": 3}], "x") == (FaultRule("slow", every=3),)
    with pytest.raises(ConfigError):
        rules_from([{"kind": "slow"}], "x")


@pytest.mark.parametrize("name", KINDS)
def test_row_of_a_kind_is_whole(name: str) -> None:
    kind = KINDS[name]

    assert kind.what
    assert kind.place in PLACES
    assert set(kind.default_of) <= set(kind.of)
    assert kind.default_of
    rule = FaultRule(name, rate=1)
    assert {parameter: rule.parameter(parameter) for parameter, _ in kind.parameters} == dict(kind.parameters)


def test_given_parameter_takes_the_place_of_the_default() -> None:
    assert FaultRule("cut", rate=1, delay_us=0).parameter("delay_us") == 0
    assert FaultRule("delay", rate=1).parameter("delay_us") == 10_000
    with pytest.raises(KeyError):
        FaultRule("drop", rate=1).parameter("delay_us")


def test_decision_depends_on_each_of_its_four_arguments_and_nothing_else() -> None:
    others = {
        decide(8, "drop", "epc>peer-ep", 12),
        decide(7, "corrupt", "epc>peer-ep", 12),
        decide(7, "drop", "epc>peer-rc", 12),
        decide(7, "drop", "epc>peer-ep", 13),
    }

    assert decide(7, "drop", "epc>peer-ep", 12) == GOLDEN
    assert len(others | {GOLDEN}) == 5


@pytest.mark.parametrize("rate", [1000, 10_000, 500_000])
def test_rate_is_what_is_hit_of_a_million(rate: int) -> None:
    rule = FaultRule("drop", rate=rate)

    hits = sum(rule.strikes(3, "epc>edma", number) for number in range(100_000))

    assert hits == pytest.approx(rate / 10, rel=0.2)


def test_whole_rate_hits_everything() -> None:
    rule = FaultRule("drop", rate=1_000_000)

    assert all(rule.strikes(seed, "epc>edma", number) for seed in range(10) for number in range(1000))


def test_every_and_at_count_from_the_first() -> None:
    every, at = FaultRule("drop", every=3), FaultRule("drop", at=(0, 5))

    assert [number for number in range(10) if every.strikes(1, "p", number)] == [2, 5, 8]
    assert [number for number in range(10) if at.strikes(1, "p", number)] == [0, 5]


def test_rule_without_ends_is_about_every_path_and_its_sender_injects_it() -> None:
    plan = plan_from({"faults": [{"kind": "drop", "rate": 1}, {"kind": "ur", "dst": "epc", "rate": 1}]}, "x")

    assert all(plan.faults[0].applies(*path) for path in PATHS)
    assert Counter(len(plan.for_service(service)) for service in SERVICES) == {1: 4, 2: 1}
    assert list(plan.for_service("epc")) == [0, 1]
