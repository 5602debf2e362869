"""
`python -m tests.hosts.scaling`: the same month on one host, on two and on three, nothing else.

Each worker may have few calls on their way, so that the provider's time to answer is the limit and not the
two cores that all of these hosts share. What is shown is that a host more does its part; how fast one is,
`bench_close` says.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from tests.hosts.__main__ import (
    BEATS,
    PACKAGES,
    PROGRAMS,
    build,
    finished,
    in_a_place_of_its_own,
    keep_sweeping,
    print_wrong,
    read_options,
    say,
    stop_sweeping,
)
from tests.hosts.network import CannotRun, require
from tests.hosts.stage import DATABASE, Stage, wait_for

HOSTS = ("one", "two", "three")
WORKERS, CALLS_AT_ONCE = 2, 4
CHARGED = """
SELECT sum(steps), extract(epoch FROM max(last_at) - min(first_at))::float
  FROM billing_contribution WHERE kind = 'CHARGE'
"""


def main() -> int:
    options = read_options(accounts=400, latency_ms=300)
    try:
        require(*PROGRAMS, packages=PACKAGES)
    except CannotRun as error:
        print(f"tests.hosts.scaling cannot run: {error}.")
        return 2
    return in_a_place_of_its_own(lambda place: run(place, options))


def run(place: Path, options: argparse.Namespace) -> int:
    stage = Stage(place, dead_after=options.dead_after, lease=options.lease)
    try:
        build(stage, options)
        for number, name in enumerate(HOSTS, start=11):
            stage.add_worker(name, number)
        report = [on(stage, count, options) for count in range(1, len(HOSTS) + 1)]
    finally:
        stage.leave()
    for row in report:
        print(
            f"  {row['hosts']} hosts: {row['charges']} charges at {row['per_second']:.1f} a second"
        )
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    wrong = [each for row in report for each in row["violations"]]
    print_wrong(wrong, options)
    return int(bool(wrong))


def on(stage: Stage, count: int, options: argparse.Namespace) -> dict[str, Any]:
    """One close on so many hosts."""
    stage.create(f"on_{count}")
    stage.start_provider(latency_ms=options.latency_ms)
    for name in HOSTS[:count]:
        stage.start_cluster(name, workers=WORKERS, CALLS_AT_ONCE=str(CALLS_AT_ONCE))
    keep_sweeping(stage)
    for name in HOSTS[:count]:
        wait_for(lambda name=name: stage.ask(BEATS, name)[0][0], f"{name} lives")
    stage.act(DATABASE, "start")
    finished(stage)
    [(charges, seconds)] = stage.ask(CHARGED)
    told = stage.judge(options.seed, options.accounts)
    for name in HOSTS[:count]:
        stage.of_host[name].pop().terminate()
    stage.stop_provider()
    stop_sweeping(stage)
    say(f"{count} hosts: {told['seconds']:.0f} s, {len(told['violations'])} violations")
    return {
        "hosts": count,
        "charges": charges,
        "seconds": seconds,
        "per_second": charges / seconds,
        "violations": told["violations"],
        "by host": told["hosts"],
    }


if __name__ == "__main__":
    sys.exit(main())
