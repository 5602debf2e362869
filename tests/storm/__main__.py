"""`python -m tests.storm`: see the package. Its last line is `kills: N, violations: 0`."""

import argparse
import json
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path

# Of these every storm must see some, or it has shown nothing about them.
RECOVERIES = (
    "step leases expired",
    "attempts and refunds taken on by the sweeper",
    "unknown outcomes resolved",
    "fenced outcomes dropped",
    "queues rung by the sweeper",
    "database started",
    "database reconnects",
    "cluster crashes, restarted by the supervisor",
    "cluster started again",
    "payments asked for on the site",
    "provider: request dropped",
    "provider: reply lost",
    "provider: slow",
    "provider: too many requests",
    "mail: dropped",
    "mail: reply lost",
    "webhooks worked on",
    "looks at all promises",
)
# A frozen worker has to live until its lease is another's, and then to end what it had in hand: too rare for minutes.
RARE = {"fenced outcomes dropped"}
LONG_SECONDS = 600
QUIET_WITHIN_SECONDS = 180
SHOWN = 30


def main() -> int:
    options = _options()
    folder = Path(tempfile.mkdtemp(prefix="kill-storm-"))
    # Open to pass for the account that PostgreSQL runs under, when we are root.
    folder.chmod(0o755)
    _enter(folder, seed=options.seed)
    print(f"seed {options.seed}, {options.seconds} s, {os.cpu_count()} cores", flush=True)
    from tests.storm.stage import Stage

    stage = Stage()
    # A kill from outside must not leave a storm behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        found, kills = _storm(stage, options)
    finally:
        stage.end()
    if found and options.keep:
        print(f"all of it is kept in {folder}")
    else:
        _leave(folder)
    for violation in found[:SHOWN]:
        print(f"VIOLATION {violation}")
    print(f"kills: {kills}, violations: {len(found)}")
    return 1 if found else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="kill-storm", description=__doc__)
    parser.add_argument("--seconds", type=int, default=150, help="of storm, before the quiet")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--pause", type=float, nargs=2, default=(0.5, 4.0), help="between kills")
    parser.add_argument("--kills", type=int, default=40, help="fewer than this is a failure")
    parser.add_argument(
        "--each", type=int, default=1, help="of each kind of kill, fault and recovery at least"
    )
    parser.add_argument("--json", type=Path, help="write what was counted there")
    parser.add_argument("--keep", action="store_true", help="keep the folder after a violation")
    return parser.parse_args()


def _enter(folder: Path, *, seed: int) -> None:
    """Only for us and our children: a database, a book, a mail server of the storm's own."""
    os.environ.pop("DATABASE_URL", None)
    os.environ.update(
        DJANGO_SETTINGS_MODULE="tests.storm.settings",
        EMBEDDED_DB_DIR=str(folder / "postgres"),
        STORM_FOLDER=str(folder),
        STORM_SEED=str(seed),
        STORM_PROVIDER="http://127.0.0.1:" + _free_port(),
    )
    import django

    django.setup()


def _free_port() -> str:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def _settle(stage, *, seed: int) -> None:
    """Who lives here; from then on the provider is as bad as the rest."""
    from django.core.management import call_command

    from tests.storm import world
    from tests.storm.stage import PROVIDER, PROVIDER_FAULTS

    call_command("migrate", verbosity=0)
    stage.start(PROVIDER)
    _tell_provider("clear")
    world.populate(random.Random(seed))
    _tell_provider(PROVIDER_FAULTS)


def _tell_provider(odds: str) -> None:
    """Its faults from now on; asked until it answers, for it may just be starting."""
    order = {"clear": True} if odds == "clear" else {"odds": odds}
    for _ in range(100):
        with suppress(OSError):
            urllib.request.urlopen(
                urllib.request.Request(
                    os.environ["STORM_PROVIDER"] + "/_control/faults",
                    data=json.dumps(order).encode(),
                ),
                timeout=5,
            ).close()
            return
        time.sleep(0.2)
    raise SystemExit("the provider does not answer")


def _storm(stage, options: argparse.Namespace) -> tuple[list[str], int]:
    from django.db import connection

    from tests.storm.monkey import Monkey
    from tests.storm.stage import PROVIDER

    rng = random.Random(options.seed)
    monkey = Monkey(stage, rng)
    _settle(stage, seed=options.seed)
    _let_it_begin(stage)
    began = time.monotonic()
    while (past := time.monotonic() - began) < options.seconds or (
        # On a busy machine a cluster takes long to stand, and the monkey waits for it; and what has
        # not happened yet may still happen.
        past < options.seconds * 1.5 and _too_few(monkey, _counts(stage), options)
    ):
        monkey.strike(while_waiting=stage.tend)
        pause = max(time.monotonic() + rng.uniform(*options.pause), monkey.spares_until)
        while time.monotonic() < pause:
            stage.tend()
            monkey.thaw()
            time.sleep(0.05)
    monkey.thaw(all_of_them=True)
    stage.retire("writer")
    stage.retire("customer")
    connection.close()
    stage.tend()
    stage.start(PROVIDER)
    _tell_provider("clear")
    took, undone = _quiesce(stage)
    stage.end(but=PROVIDER)
    counts = _counts(stage)
    found = [f"not quiet after {QUIET_WITHIN_SECONDS} s: {undone}"] if undone else []
    found += _with_patience("violations")
    volume = _with_patience("volume")
    _print(monkey, counts, volume, took)
    found += _too_few(monkey, counts, options)
    if options.json:
        _write(options, monkey, counts, volume, took, found)
    return found, sum(monkey.kills.values())


def _counts(stage) -> Counter[str]:
    from tests.storm.notes import counted

    crashes = {"cluster crashes, restarted by the supervisor": stage.crashes()}
    return counted() + Counter(crashes)


def _let_it_begin(stage) -> None:
    """The first month is under way before anybody is killed."""
    deadline = time.monotonic() + 60
    while not _with_patience("volume")["invoices"]:
        assert time.monotonic() < deadline, "no month was closed in a minute without a fault"
        stage.tend()
        time.sleep(0.2)


def _quiesce(stage) -> tuple[float, dict[str, int]]:
    """Nobody helps: the processes that always run go on, that is all."""
    began = time.monotonic()
    while True:
        stage.tend()
        undone = _with_patience("left_undone")
        took = time.monotonic() - began
        if not undone or took > QUIET_WITHIN_SECONDS:
            return took, undone
        time.sleep(0.5)


def _with_patience(question: str):
    """Ask the judge; a database that is just being killed is asked again."""
    from django.db import Error, connection

    from billing.books import BookUnreadable
    from tests.storm import judge

    for _ in range(40):
        try:
            return getattr(judge, question)()
        except (Error, BookUnreadable):
            connection.close()
            time.sleep(0.5)
    raise SystemExit("the database does not come back")


# --- what is said


def _print(monkey, counts: Counter[str], volume: dict[str, int], took: float) -> None:
    for kind in sorted(monkey.kinds):
        missed = f"  ({monkey.missed[kind]} found nobody)" if monkey.missed[kind] else ""
        print(f"  {monkey.kills[kind]:6}  {kind}{missed}")
    for what in sorted({*RECOVERIES, *counts}):
        print(f"  {counts[what]:6}  {what}")
    print(", ".join(f"{count} {what}" for what, count in volume.items()))
    print(f"quiet {took:.0f} s after the last fault")


def _too_few(monkey, counts: Counter[str], options: argparse.Namespace) -> list[str]:
    """What did not happen proves nothing."""
    kills = sum(monkey.kills.values())
    return [
        *([f"only {kills} kills"] if kills < options.kills else []),
        *(f"too few: {kind}" for kind in monkey.kinds if monkey.kills[kind] < options.each),
        *(
            f"too few: {what}"
            for what in RECOVERIES
            if counts[what] < options.each and (what not in RARE or options.seconds >= LONG_SECONDS)
        ),
    ]


def _write(options, monkey, counts, volume, took, found) -> None:
    options.json.write_text(
        json.dumps(
            {
                "at": datetime.now(UTC).isoformat(timespec="seconds"),
                "command": " ".join(["python -m tests.storm", *sys.argv[1:]]),
                "seed": options.seed,
                "seconds": options.seconds,
                "cores": os.cpu_count(),
                "kills": dict(monkey.kills),
                "counted": dict(counts),
                "volume": volume,
                "quiet_after_seconds": round(took),
                "violations": len(found),
                "found": found[:SHOWN],
            },
            indent=1,
        )
        + "\n"
    )


def _leave(folder: Path) -> None:
    from django.db import connections

    from config.embedded_postgres.server import Server

    connections.close_all()
    Server(data_dir=(folder / "postgres").resolve()).leave()
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
