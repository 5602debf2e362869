"""`python -m tests.hosts`: see the package. Prints one JSON document on request; its exit code says whether all held."""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.hosts.network import CannotRun, require
from tests.hosts.stage import DATABASE, PATIENCE_SECONDS, Stage, last_words, wait_for

CANNOT_RUN = "This cannot run"
PROGRAMS = ("ip", "setpriv")
PACKAGES = "iproute2 util-linux"
# What happens when so much of the charging is done.
KILL_AT, CUT_AT = 0.1, 0.2
HOSTS, ADDED = ("one", "two", "three"), "four"
FINISH_SECONDS = 900

ENDED = """
SELECT count(*) FILTER (WHERE finished_at IS NOT NULL)::float / count(*) FROM billing_step WHERE kind = 'CHARGE'
"""
SESSIONS = "SELECT count(*) FROM pg_stat_activity WHERE client_addr = %s"
WORKED = "SELECT coalesce(sum(steps), 0) FROM billing_contribution WHERE host = %s"
BEATS = (
    "SELECT count(*) FROM billing_executor WHERE host = %s AND beat_at > now() - interval '12 s'"
)


def main() -> int:
    options = read_options()
    return play(disturbed_and_undisturbed, options)


def read_options(**defaults: Any) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests.hosts", description=__doc__)
    parser.add_argument("--accounts", type=int, default=400)
    parser.add_argument("--latency-ms", type=int, default=200, help="of each call to the provider")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--lease", type=int, default=20, help="STEP_LEASE_SECONDS")
    parser.add_argument("--dead-after", type=int, default=10, help="DATABASE_DEAD_AFTER_SECONDS")
    parser.add_argument(
        "--no-comparison", action="store_true", help="hold it against the seed alone: half the time"
    )
    parser.add_argument("--json", type=Path, help="write the whole report there")
    parser.add_argument("--keep", type=Path, help="keep databases, books and logs in this folder")
    parser.set_defaults(**defaults)
    return parser.parse_args()


def play(
    what: Callable[[Stage, argparse.Namespace], int],
    options: argparse.Namespace,
    *,
    require_also: Callable[[], None] = lambda: None,
    programs: tuple[str, ...] = PROGRAMS,
    packages: str = PACKAGES,
    **settings: str,
) -> int:
    """Build the template, and play on a stage that is gone afterwards; 2 where this cannot be done here."""
    try:
        require(*programs, packages=packages)
        require_also()
    except CannotRun as error:
        print(f"{CANNOT_RUN}: {error}.")
        return 2
    place = Path(tempfile.mkdtemp(prefix="hosts-"))
    # PostgreSQL's account has to pass through.
    place.chmod(0o755)
    # A kill from outside must not leave processes and namespaces behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    stage = Stage(place, dead_after=options.dead_after, lease=options.lease)
    try:
        say(f"seed {options.seed}: {options.accounts} accounts, {os.cpu_count()} cores")
        stage.begin(**settings)
        build(stage, options)
        return what(stage, options)
    except BaseException:
        print(last_words(place), file=sys.stderr)
        raise
    finally:
        stage.leave()
        if options.keep:
            socket = shutil.ignore_patterns("socket")
            shutil.copytree(place, options.keep, dirs_exist_ok=True, ignore=socket)
        shutil.rmtree(place, ignore_errors=True)


def disturbed_and_undisturbed(stage: Stage, options: argparse.Namespace) -> int:
    report: dict[str, Any] = {"seed": options.seed, "accounts": options.accounts}
    if not options.no_comparison:
        report["undisturbed"] = undisturbed(stage, options)
    report["events"], report["disturbed"] = disturbed(stage, options)
    for name, value in report["events"].items():
        print(f"  {name}: {value}")
    print(table(report["disturbed"]["hosts"]))
    return tell(report, wrong_with(report), options)


def build(stage: Stage, options: argparse.Namespace) -> None:
    """The template that every close begins from, and the provider's book beside it."""
    stage.postgres.ask(f"CREATE DATABASE {stage.database}")
    stage.start_provider()
    stage.reach_provider(DATABASE)
    stage.act(DATABASE, "build", str(options.seed), str(options.accounts), str(stage.place))
    stage.stop_provider()


def undisturbed(stage: Stage, options: argparse.Namespace) -> dict[str, Any]:
    """The same month on one host, to which nothing happens."""
    stage.create("undisturbed")
    stage.start_provider(latency_ms=options.latency_ms)
    stage.add_worker("alone", 10)
    stage.start_cluster("alone")
    sweeper = keep_sweeping(stage)
    stage.act(DATABASE, "start")
    finished(stage)
    told = stage.judge(options.seed, options.accounts)
    say(f"undisturbed, on one host: {told['seconds']:.0f} s, {len(told['violations'])} violations")
    stage.kill("alone")
    stage.stop_provider()
    sweeper.kill()
    return told


def disturbed(stage: Stage, options: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any]]:
    """Three hosts; the one that did most is killed, the next is cut off and brought back, one is added."""
    stage.create("disturbed")
    stage.start_provider(latency_ms=options.latency_ms)
    for number, name in enumerate(HOSTS, start=11):
        stage.add_worker(name, number)
        stage.start_cluster(name)
    keep_sweeping(stage)
    for name in HOSTS:
        wait_for(lambda name=name: stage.ask(BEATS, name)[0][0], f"{name} lives")
    stage.act(DATABASE, "start")
    events: dict[str, Any] = {}

    at(stage, KILL_AT)
    killed, cut_off, calm = sorted(HOSTS, key=lambda name: worked(stage, name), reverse=True)
    events["killed"], events["killed after steps"] = killed, worked(stage, killed)
    events["processes killed"] = stage.kill(killed)
    say(f"killed: {events['processes killed']} processes of host {killed}")

    at(stage, CUT_AT)
    hold_a_lock(stage, cut_off)
    address = stage.network.addresses[cut_off]
    stage.network.cut_off(cut_off)
    cut_at = time.monotonic()
    events["cut off"], events["cut off after steps"] = cut_off, worked(stage, cut_off)
    events["its sessions then"] = stage.ask(SESSIONS, address)[0][0]
    say(f"cut off: host {cut_off}, with {events['its sessions then']} sessions and a row lock")

    stage.add_worker(ADDED, 14)
    stage.start_cluster(ADDED)
    say(f"added: host {ADDED}")

    wait_for(lambda: not stage.ask(SESSIONS, address)[0][0], "its sessions end")
    events["its sessions were over after seconds"] = round(time.monotonic() - cut_at, 1)
    stage.network.bring_back(cut_off)
    say(f"brought back: host {cut_off}, {events['its sessions were over after seconds']} s later")
    before = worked(stage, cut_off)
    events["restarted"], events["it stopped within seconds"] = calm, restart(stage, calm)
    say(f"restarted: host {calm}, as for a deployment")
    finished(stage)
    events["steps of the host that came back"] = worked(stage, cut_off) - before
    events["steps of the host that was added"] = worked(stage, ADDED)
    told = stage.judge(options.seed, options.accounts)
    say(f"disturbed: {told['seconds']:.0f} s, {len(told['violations'])} violations")
    return events, told


# --- what happens


def at(stage: Stage, share: float) -> None:
    """Wait until so much of the charging is done, or all of it."""
    wait_for(lambda: stage.ask(ENDED)[0][0] >= share, f"{share:.0%} of the charges")


def restart(stage: Stage, host: str) -> float:
    """SIGTERM, as systemd says it, and the same again; how long the work in hand took to end."""
    cluster = stage.of_host[host].pop()
    told_at = time.monotonic()
    cluster.terminate()
    cluster.wait(PATIENCE_SECONDS)
    took = time.monotonic() - told_at
    stage.start_cluster(host)
    return round(took, 1)


def hold_a_lock(stage: Stage, host: str) -> None:
    """A transaction that is open on a host, and holds the row lock of an account."""
    process = stage.run_on(host, "world", "hold_a_lock", module=True)
    log = stage.log(host, "world")
    wait_for(lambda: "locked" in log.read_text() or process.poll() is not None, "a row lock")


def worked(stage: Stage, host: str) -> int:
    return int(stage.ask(WORKED, host)[0][0])


def keep_sweeping(stage: Stage) -> subprocess.Popen:
    """The timer, quicker than the minute that systemd would keep."""
    return stage.run_on(DATABASE, "close_sweep", "--every", "5")


def finished(stage: Stage) -> None:
    state = "SELECT state FROM billing_closerun"
    wait_for(
        lambda: stage.ask(state) == [("FINISHED",)], "the close finishes", seconds=FINISH_SECONDS
    )
    # Mails are delivered after the step that wrote them.
    waiting = "SELECT count(*) FROM notifications_message WHERE state IN ('QUEUED', 'SENDING')"
    wait_for(lambda: not stage.ask(waiting)[0][0], "the mails are sent")


# --- what is said


def wrong_with(report: dict[str, Any]) -> list[str]:
    """What is wrong with each close, and where they differ."""
    wrong: list[str] = [*report["disturbed"]["violations"]]
    if "undisturbed" in report:
        wrong += report["undisturbed"]["violations"]
        wrong += differences(report["undisturbed"]["outcome"], report["disturbed"]["outcome"])
    return wrong


def tell(report: Any, wrong: list[str], options: argparse.Namespace) -> int:
    """Write the report where it was asked for, and say how many violations there were, last."""
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    for each in wrong[:20]:
        print(f"VIOLATION {each}")
    print(f"accounts: {options.accounts}, violations: {len(wrong)}")
    return int(bool(wrong))


def differences(one: Any, other: Any, where: str = "") -> list[str]:
    """Where two outcomes say different things."""
    if isinstance(one, dict) and isinstance(other, dict):
        return [
            found
            for key in sorted({*one, *other})
            for found in differences(one.get(key), other.get(key), f"{where}/{key}")
        ]
    return [] if one == other else [f"{where}: {one} undisturbed, {other} disturbed"]


def table(rows: list[dict[str, Any]]) -> str:
    heads = ("kind", "host", "processes", "steps", "seconds", "per_second")
    lines = [heads, *([str(row[head]) for head in heads] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def say(words: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {words}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
