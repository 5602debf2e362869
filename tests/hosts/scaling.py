"""
`python -m tests.hosts.scaling`: the same month on one host, on two and on three, nothing else.

Each worker may have few calls on their way, so that the provider's time to answer is the limit and not the
two cores that all of these hosts share. What is shown is that a host more does its part; how fast one is,
`bench_close` says.
"""

import argparse
import sys
from typing import Any

from tests.hosts.__main__ import (
    BEATS,
    finished,
    keep_sweeping,
    play,
    read_options,
    say,
    tell,
)
from tests.hosts.stage import DATABASE, Stage, wait_for

HOSTS = ("one", "two", "three")
WORKERS, CALLS_AT_ONCE = 2, 4
CHARGED = """
SELECT sum(steps), extract(epoch FROM max(last_at) - min(first_at))::float
  FROM billing_contribution WHERE kind = 'CHARGE'
"""


def main() -> int:
    return play(on_one_on_two_on_three, read_options(accounts=400, latency_ms=300))


def on_one_on_two_on_three(stage: Stage, options: argparse.Namespace) -> int:
    for number, name in enumerate(HOSTS, start=11):
        stage.add_worker(name, number)
    report = [on(stage, count, options) for count in range(1, len(HOSTS) + 1)]
    for row in report:
        print(
            f"  {row['hosts']} hosts: {row['charges']} charges at {row['per_second']:.1f} a second"
        )
    return tell(report, [each for row in report for each in row["violations"]], options)


def on(stage: Stage, count: int, options: argparse.Namespace) -> dict[str, Any]:
    """One close on so many hosts."""
    stage.create(f"on_{count}")
    stage.start_provider(latency_ms=options.latency_ms)
    for name in HOSTS[:count]:
        stage.start_cluster(name, workers=WORKERS, CALLS_AT_ONCE=str(CALLS_AT_ONCE))
    sweeper = keep_sweeping(stage)
    for name in HOSTS[:count]:
        wait_for(lambda name=name: stage.ask(BEATS, name)[0][0], f"{name} lives")
    stage.act(DATABASE, "start")
    finished(stage)
    [(charges, seconds)] = stage.ask(CHARGED)
    told = stage.judge(options.seed, options.accounts)
    for name in HOSTS[:count]:
        stage.of_host[name].pop().terminate()
    stage.stop_provider()
    sweeper.kill()
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
