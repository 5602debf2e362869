"""What is run, how small or large, and which figures it gives."""

import json
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SEED = "20181102"
# A module to run; "pytest" reports to {report} as well.
Command = tuple[str, ...]
Figures = dict[str, Any]


class NoFigures(Exception):
    """It ended without saying what it came to."""


@dataclass(frozen=True)
class Part:
    """One kind of evidence. Its `last_line` says how many there were of what, and how many were wrong."""

    name: str
    promise: str
    long: Command
    short: Command
    figures: Callable[[str, Path], Figures]
    long_environment: Mapping[str, str] = field(default_factory=dict)


def _last_line(said: str, _report: Path) -> Figures:
    """`boundaries: 780, violations: 0` and the like."""
    lines = said.strip().splitlines() or [""]
    found = dict(re.findall(r"(\w+): (\d+)", lines[-1]))
    if not found:
        raise NoFigures(said[-2000:])
    return {name: int(count) for name, count in found.items()}


def _sweep(said: str, report: Path) -> Figures:
    golden = re.search(r"golden run: (\d+) boundaries", said)
    pairs = re.search(r"(\d+) double crashes", said)
    counted = _last_line(said, report)
    return {
        "boundaries": int(golden[1]) if golden else 0,
        "double crashes": int(pairs[1]) if pairs else 0,
        "runs": counted["boundaries"],
        "violations": counted["violations"],
    }


def _storm(said: str, report: Path) -> Figures:
    if not report.exists():
        raise NoFigures(said[-2000:])
    told = json.loads(report.read_text())
    return {
        "kills": sum(told["kills"].values()),
        "violations": told["violations"],
        "quiet after seconds": told["quiet_after_seconds"],
        "kills by kind": told["kills"],
        "faults and recoveries": told["counted"],
        "volume": told["volume"],
    }


def _tests(said: str, report: Path) -> Figures:
    """What tests noted for the report, summed; a failure is a violation."""
    if not report.exists():
        raise NoFigures(said[-2000:])
    tree = ElementTree.parse(report)
    figures: Figures = {"tests": 0, "violations": 0}
    for case in tree.iter("testcase"):
        figures["tests"] += 1
        figures["violations"] += case.find("failure") is not None or case.find("error") is not None
    for noted in tree.iter("property"):
        name = str(noted.get("name")).replace("_", " ")
        figures[name] = figures.get(name, 0) + int(str(noted.get("value")))
    return figures


def _pytest(*tests: str) -> Command:
    return ("pytest", "-q", *tests)


INTERLEAVINGS = _pytest("tests/concurrency/test_interleavings.py")
MONEY = _pytest("tests/properties/test_money_that_goes_back.py")
WEBHOOKS = _pytest("tests/journeys/test_webhooks_in_disorder.py")

PARTS = (
    Part(
        "model",
        "No order of requests, replies, crashes and decisions makes the charge protocol's own table charge"
        " twice, lose a success, or end in a state without a way out.",
        long=("tests.properties.charge_model", "--wire", "3"),
        short=("tests.properties.charge_model",),
        figures=_last_line,
    ),
    Part(
        "sabotage",
        "Each of these known-bad changes is caught by the tests that are named for it.",
        long=("tests.sabotage",),
        short=(
            *("tests.sabotage", "--only"),
            *("the recheck takes no lock", "a second success is not booked"),
        ),
        figures=_last_line,
    ),
    Part(
        "interleavings",
        "Two acts on one account's money end right in whatever order PostgreSQL lets them take their steps.",
        long=INTERLEAVINGS,
        short=INTERLEAVINGS,
        figures=_tests,
        long_environment={"INTERLEAVINGS": "252"},
    ),
    Part(
        "money",
        "Payments, refunds, returns and disputes in any order, on a bad line: after each, what is due, what is credit"
        " and what it cost is what a small model of the money says, and of a payment never more goes back than it was.",
        long=MONEY,
        short=MONEY,
        figures=_tests,
        long_environment={"MONEY_EXAMPLES": "200"},
    ),
    Part(
        "webhooks",
        "However a provider's events come, or do not, it ends as if each had come once and in order.",
        long=WEBHOOKS,
        short=WEBHOOKS,
        figures=_tests,
        long_environment={"WEBHOOK_EVENTS": "10000"},
    ),
    Part(
        "crash-sweep",
        "Killed at any boundary of a close, before it, after it, or with its reply lost, it ends row for row"
        " as without a fault.",
        long=("tests.crashes.sweep", "--pairs", "200", "--seed", SEED),
        short=("tests.crashes.sweep", "--one-mode", "--pairs", "12", "--seed", SEED),
        figures=_sweep,
    ),
    Part(
        "kill-storm",
        "Real processes, killed by seed: nobody is charged twice, nothing that was acknowledged is lost,"
        " nothing stays stuck.",
        long=(
            *("tests.storm", "--seconds", "1800", "--kills", "1500", "--pause", "0.05", "0.3"),
            *("--seed", SEED, "--keep", "--json", "{report}"),
        ),
        short=("tests.storm", "--seconds", "150", "--seed", SEED, "--json", "{report}"),
        figures=_storm,
    ),
)
