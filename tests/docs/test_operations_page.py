"""The runbook has every alarm, metric, reason and finding that there is."""

from __future__ import annotations

import ast

from prometheus_client import CollectorRegistry

from tests.docs.pages import ROOT, quoted, rows
from txn.metrics_prometheus import (
    PrometheusCoordinatorMetrics,
    PrometheusParticipantMetrics,
    PrometheusStoreMetrics,
)
from txn.reconcile import Kind
from txn.rpc import replies

PAGE = ROOT / "docs" / "operations.md"
PACKAGES = ("services", "txn", "discovery", "balancer")


def named(heading: str) -> set[str]:
    """What the first column of a table names."""
    return {name for row in rows(PAGE, heading) for name in quoted(row[0])}


def critical() -> set[str]:
    """What is logged as critical, anywhere, as it is written in the code."""
    found = set()
    for path in [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr == "critical"
            ):
                assert isinstance(node.args[0], ast.Constant), path
                found.add(str(node.args[0].value))
    return found


def test_every_critical_line_is_in_the_runbook() -> None:
    """Who logs one says what it means and what to do, and the runbook has no other."""
    assert len(critical()) > 5
    assert critical() == named("Runbook: what the logs say")


def test_every_reason_of_an_alarm_is_in_the_runbook() -> None:
    """Those that go over the wire."""
    assert set(replies._ALARMS) == named("Runbook: the reason of an alarm")


def test_every_metric_is_in_the_runbook() -> None:
    """Those of transactions and stores; those of channels are described with the balancer."""
    registry = CollectorRegistry()
    PrometheusCoordinatorMetrics(registry)
    PrometheusParticipantMetrics(registry)
    PrometheusStoreMetrics(registry)
    series = {
        f"{metric.name}_total" if metric.type == "counter" else metric.name
        for metric in registry.collect()
    }
    assert series == named("Runbook: metrics")


def test_every_finding_is_explained_and_marked_as_what_it_is() -> None:
    """A contradiction is called one, and what resolves itself is not."""
    table = rows(PAGE, "What a comparison finds")
    marked = {name: row[1] == "contradiction" for row in table for name in quoted(row[0])}
    assert {kind.name: kind.contradiction for kind in Kind} == marked


def test_what_is_said_at_a_start_is_quoted_as_it_is_said() -> None:
    """Each line about a process that does not start is found in the code."""
    section = PAGE.read_text(encoding="utf-8").partition("does not start (code 3):\n\n")[2]
    lines = section.partition("\n\n")[0].splitlines()[2:]
    said = [quoted(line.split("|")[1])[0] for line in lines]
    code = "\n".join(
        path.read_text(encoding="utf-8")
        for package in ("services", "txn")
        for path in (ROOT / package).rglob("*.py")
    )
    assert len(said) > 4
    assert [] == [each for each in said if each not in code]
