"""Dashboard, alert rules and the page about metrics name what there is; promtool judges the rest."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ntbnet.app.metrics_families import FAMILIES

ROOT = Path(__file__).resolve().parent.parent
PROMETHEUS = ROOT / "deploy" / "prometheus"
RULES = PROMETHEUS / "ntbnet-alerts.yml"
DASHBOARD = ROOT / "deploy" / "grafana" / "ntbnet.json"
EXPOSED = {family.exposed_name: family for family in FAMILIES}


def promtool(*words: str | Path) -> str:
    """What promtool says.

    Raises:
        AssertionError: it is not content.
    """
    done = subprocess.run(["promtool", *words], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def names_in(text: str) -> set[str]:
    return set(re.findall(r"\bntbnet_[a-z_]+\b", text))


def targets() -> list[dict[str, Any]]:
    return [target for panel in dashboard()["panels"] for target in panel["targets"]]


def dashboard() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    return loaded


@pytest.mark.parametrize(
    "file", [DASHBOARD, RULES, RULES.with_suffix(".test.yml")], ids=lambda path: str(path.name)
)
def test_every_metric_that_a_file_names_exists(file: Path) -> None:
    named = names_in(file.read_text(encoding="utf-8"))

    assert len(named) > 3
    assert named <= set(EXPOSED)


def test_every_label_that_the_dashboard_shows_exists() -> None:
    for target in targets():
        shown = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
        for name in names_in(target["expr"]):
            assert shown <= set(EXPOSED[name].labels), target


@pytest.mark.system
def test_every_query_of_the_dashboard_is_one(programs: None, tmp_path: Path) -> None:
    values = {"$instance": "a", "$__rate_interval": "1m", "$__range": "15m", "$__interval": "1m"}
    queries = [target["expr"] for target in targets()]
    queries += [note["expr"] for note in dashboard()["annotations"]["list"]]
    rules = []
    for number, query in enumerate(queries):
        whole = re.sub(r"\$\w+", lambda found: values[found[0]], query)
        rules.append({"record": f"ntbnet:query{number}", "expr": whole})
    file = tmp_path / "queries.yml"  # JSON is YAML
    file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}), encoding="utf-8")

    assert f"{len(rules)} rules found" in promtool("check", "rules", file)


def test_panels_of_the_dashboard_neither_overlap_nor_leave_the_grid() -> None:
    cells: set[tuple[int, int]] = set()
    for panel in dashboard()["panels"]:
        at = panel["gridPos"]
        mine = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not mine & cells, panel["title"]
        assert max(x for x, _ in mine) < 24
        cells |= mine


def test_every_alert_rule_has_a_test() -> None:
    rules = re.findall(r"- alert: (\w+)", RULES.read_text(encoding="utf-8"))
    tested = re.findall(r"alertname: (\w+)", RULES.with_suffix(".test.yml").read_text(encoding="utf-8"))

    assert rules
    assert set(tested) == set(rules)


@pytest.mark.system
def test_alert_rules_are_rules_and_fire_as_they_should(programs: None) -> None:
    promtool("check", "rules", RULES)
    promtool("test", "rules", RULES.with_suffix(".test.yml"))


@pytest.mark.system
def test_sample_configuration_of_prometheus_is_one(programs: None) -> None:
    promtool("check", "config", PROMETHEUS / "prometheus.yml")


def test_page_lists_every_metric_as_the_code_does() -> None:
    text = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    rows = re.findall(r"(?m)^\| `(ntbnet_\w+)` \| (.*?) \| (.*) \|$", text)

    expected = [
        (family.exposed_name, ", ".join(f"`{label}`" for label in family.labels), family.meaning)
        for family in FAMILIES
    ]
    assert rows == expected
