"""
One run of the scenario, through as many lives as it takes: forked, killed, started again, healed.

The run without faults leaves a snapshot after each act, of the database and of the world's files. A run
with faults goes on from the last one before its first strike: up to there it would do the same. A life
goes on with the act that its predecessor died in, after a sweep some hours later.
"""

import json
import math
import os
import shutil
import tempfile
import time
import traceback
from collections.abc import Callable
from concurrent.futures import wait
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import connection, connections
from django.db.models.functions import Now
from django_q.models import OrmQ

from billing import books
from billing.close.engine import stint
from billing.gateways import Status
from billing.gateways.standins.sandbox import SandboxGateway
from billing.models import CloseRun, Payment, Refund
from billing.payments.charges import attempt_kind, calls
from billing.payments.refunds import refund_kind
from notifications.dispatcher import loop
from notifications.faults import THE_DATABASES
from notifications.mail import message_id
from notifications.models import Message
from tests import restoring
from tests.crashes.sweep import boundaries, databases, scenario
from tests.crashes.sweep.boundaries import KILLED, Mode, Recorder
from tests.crashes.sweep.dump import dump
from tests.crashes.sweep.mail_sink import accepted
from tests.crashes.sweep.scenario import SCRIPT, World

LIVES_MAX = 6
# From one life to the next: longer than any lease, shorter than what goes to a person.
BETWEEN_LIVES = timedelta(hours=3)


@dataclass(frozen=True)
class Strike:
    """Stop at the `at`th boundary of a life, in this way."""

    at: int
    mode: Mode

    def __str__(self) -> str:
        return f"{self.at}:{self.mode}"


@dataclass
class Report:
    """What came of one run."""

    strikes: tuple[Strike, ...]
    # By life: the boundaries it came by.
    boundaries: list[list[str]]
    violations: list[str]
    dump: list[str]
    seconds: float = 0.0

    def __str__(self) -> str:
        struck = (
            f"{strike.mode} {names[strike.at - 1]}"
            for strike, names in zip(self.strikes, self.boundaries, strict=False)
            if len(names) >= strike.at
        )
        return ", then ".join(struck) or "no fault"


# Called after each act with its number; a truth ends the run there.
Milestone = Callable[[int, World, Recorder], bool | None]


class Snapshots:
    """How things stood after each act of the run without faults; 0: before the first."""

    def __init__(self, folder: Path, family: str) -> None:
        self.folder = folder
        self.family = family

    def take(self, act: int, world: World, recorder: Recorder) -> None:
        """Keep the database, the files, and what they say."""
        shutil.copytree(world.folder, self.folder / str(act))
        with recorder.paused():
            says = {"met": recorder.names, "dump": dump(), "rung": _rung()}
            databases.create(self._database(act), like=connection.settings_dict["NAME"])
        (self.folder / f"{act}.json").write_text(json.dumps(says))

    def restore(self, act: int, *, database: str, folder: Path) -> None:
        """Make the database and the files what they were then."""
        databases.create(database, like=self._database(act))
        databases.use(database)
        restoring.looks_like_itself()
        shutil.copytree(self.folder / str(act), folder, dirs_exist_ok=True)

    def says(self, act: int) -> dict[str, Any]:
        return _read(self.folder / f"{act}.json")

    def last_before(self, boundary: int) -> int:
        return max(act for act in self._acts() if len(self.says(act)["met"]) < boundary)

    def _acts(self) -> list[int]:
        return [int(path.stem) for path in self.folder.glob("*.json")]

    def _database(self, act: int) -> str:
        return f"{self.family}_after_{act}"


@cache
def _read(path: Path) -> dict[str, Any]:
    says: dict[str, Any] = json.loads(path.read_text())
    return says


@dataclass
class Stage:
    """Where the runs of one process of the sweep take place."""

    database: str
    snapshots: Snapshots
    # Whether a run may end as soon as it stands where it would without faults.
    until_same: bool = False

    def golden(self) -> Report:
        """Run the scenario without faults, and take the snapshots."""
        self._populate()
        return self._in_a_folder(lambda folder: self._run(folder, (), self.snapshots.take))

    def warm_up(self) -> None:
        """Run it in this very process: what its children need is loaded, and stays."""
        self._populate()
        recorder = Recorder()
        boundaries.record_with(recorder)
        with tempfile.TemporaryDirectory(prefix="crash-sweep-") as folder:
            _go_on(World(Path(folder)), recorder, is_first=True, at_milestone=_go_by)
        connections.close_all()

    def _populate(self) -> None:
        databases.create(self.database, like=self.snapshots.family)
        databases.use(self.database)
        scenario.populate()

    def run(self, *strikes: Strike) -> Report:
        """Run it, struck in its first lives as told."""
        return self._in_a_folder(lambda folder: self._struck(folder, strikes))

    def _struck(self, folder: Path, strikes: tuple[Strike, ...]) -> Report:
        act = self.snapshots.last_before(strikes[0].at if strikes else 1)
        self.snapshots.restore(act, database=self.database, folder=folder)
        return self._run(folder, strikes, self._may_end, met=self.snapshots.says(act)["met"])

    def _in_a_folder(self, run: Callable[[Path], Report]) -> Report:
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="crash-sweep-") as folder:
            report = run(Path(folder))
        report.seconds = time.monotonic() - began
        return report

    def _run(
        self,
        folder: Path,
        strikes: tuple[Strike, ...],
        at_milestone: Milestone,
        met: list[str] | None = None,
    ) -> Report:
        report = Report(strikes, [], [], [])
        for life in range(LIVES_MAX):
            strike = strikes[life] if life < len(strikes) else None
            log = folder / f"boundaries-{life}"
            recorder = Recorder(
                strike_at=strike.at if strike else 0,
                mode=strike.mode if strike else Mode.BEFORE,
                log=log,
                met_before=(met or []) if life == 0 else [],
            )
            code = _fork(folder, recorder, is_first=life == 0, at_milestone=at_milestone)
            report.boundaries.append(log.read_text().splitlines())
            if code == 0:
                found: dict[str, Any] = json.loads((folder / "found.json").read_text())
                report.violations, report.dump = found["violations"], found["dump"]
                return report
            if code != KILLED:
                report.violations = [(folder / "error").read_text()]
                return report
        report.violations = [f"still not through after {LIVES_MAX} lives"]
        return report

    def _may_end(self, act: int, _world: World, recorder: Recorder) -> bool:
        """The same rows, and each queue that somebody would wake there is woken here."""
        if not self.until_same or not recorder.has_struck:
            return False
        with recorder.paused():
            then = self.snapshots.says(act)
            return set(then["rung"]) <= set(_rung()) and then["dump"] == dump()


def _rung() -> list[str]:
    due = OrmQ.objects.filter(lock__lte=Now())
    return sorted(due.values_list("key", flat=True).distinct())


def _go_by(_act: int, _world: World, _recorder: Recorder) -> None:
    """Nothing to be done."""


def _fork(folder: Path, recorder: Recorder, *, is_first: bool, at_milestone: Milestone) -> int:
    connections.close_all()
    pid = os.fork()
    if pid == 0:
        os._exit(_live(folder, recorder, is_first=is_first, at_milestone=at_milestone))
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _live(folder: Path, recorder: Recorder, *, is_first: bool, at_milestone: Milestone) -> int:
    """The whole of a child's life; its exit code. A lost database ends it as it ends a worker."""
    try:
        boundaries.record_with(recorder)
        _go_on(World(folder), recorder, is_first=is_first, at_milestone=at_milestone)
    except BaseException as error:  # noqa: BLE001 - told to the parent
        is_lost = isinstance(error, THE_DATABASES)
        if is_lost and recorder.mode is Mode.REPLY_LOST and recorder.has_struck:
            return KILLED
        (folder / "error").write_text(traceback.format_exc())
        return 1
    return 0


class InStep(calls.Window):
    """One call at a time, and all answers together: the order of boundaries has to be the same each time."""

    def begin(self, *args: Any, **facts: Any) -> None:
        super().begin(*args, **facts)
        wait(self._out)

    def answers(self) -> dict[Any, Any]:
        answers = {self._out[call]: call.result() for call in self._out}
        self._out.clear()
        return answers


def _go_on(world: World, recorder: Recorder, *, is_first: bool, at_milestone: Milestone) -> None:
    progress = world.folder / "progress.json"
    world.settle_in()
    calls.Window = InStep
    # In the one thread: so goes the mail, to a server that is near.
    attempt_kind.threads = refund_kind.threads = lambda: 0
    # By the clock, a slow turn would claim once more. Here: when nothing is in hand.
    stint.CLAIM_EVERY_SECONDS = loop.CLAIM_EVERY_SECONDS = math.inf
    done = 0
    if progress.exists():
        noted = json.loads(progress.read_text())
        done, world.clock.now_is = noted["acts"], datetime.fromisoformat(noted["clock"])
    elif is_first and not recorder.strike_at:
        at_milestone(0, world, recorder)
    if not is_first:
        world.clock.forward(BETWEEN_LIVES)
        scenario.heal(world)
    for number, act in enumerate(SCRIPT[done:], done + 1):
        act(world)
        progress.write_text(json.dumps({"acts": number, "clock": world.clock.now_is.isoformat()}))
        if at_milestone(number, world, recorder):
            break
    with recorder.paused():
        is_at_the_end = number == len(SCRIPT)
        found = {
            "violations": _violations(world, is_at_the_end=is_at_the_end),
            "dump": dump() if is_at_the_end else [],
        }
    (world.folder / "found.json").write_text(json.dumps(found))


# --- what must be true afterwards


def _violations(world: World, *, is_at_the_end: bool) -> list[str]:
    return [
        *(_undone() if is_at_the_end else []),
        *(
            f"{finding.promise.sentence} ({finding.count}): {finding.rows[:3]}"
            for finding in books.check(as_of=world.clock.now())
        ),
        *_against_the_provider(),
        *_against_the_mail_server(world),
    ]


def _undone() -> list[str]:
    open_runs = CloseRun.objects.exclude(state=CloseRun.State.FINISHED)
    return [
        *(f"left undone: {left}" for left in scenario.unfinished()),
        *(f"{run} is not finished" for run in open_runs),
    ]


def _against_the_provider() -> list[str]:
    """In plain words, beside check_books: its successes are our payments, its refunds ours, one by one."""
    sandbox = SandboxGateway(settings.SANDBOX_BOOK)
    taken = sorted(
        (seen.ref, seen.amount_minor) for seen in sandbox.book() if seen.status is Status.SUCCEEDED
    )
    booked = sorted(
        Payment.objects.filter(gateway="sandbox").values_list("provider_ref", "amount_minor")
    )
    paid_back = sorted((seen.ref, seen.amount_minor) for seen in sandbox.refunds())
    written = sorted(
        Refund.objects.exclude(state=Refund.State.FAILED).values_list(
            "provider_ref", "amount_minor"
        )
    )
    return [
        *([f"the provider took {taken}, we booked {booked}"] if taken != booked else []),
        *([f"it paid back {paid_back}, we wrote {written}"] if paid_back != written else []),
    ]


def _against_the_mail_server(world: World) -> list[str]:
    """Whatever we say was sent was accepted, whatever was accepted is ours, and repeats are repeats."""
    ids = [mail["id"] for mail in accepted(world.folder / "mail.jsonl")]
    sent = {message_id(message) for message in Message.objects.filter(state="SENT")}
    return [
        *(f"said to be sent, never accepted: {lost}" for lost in sent - set(ids)),
        *(f"accepted, and not said to be sent: {stray}" for stray in set(ids) - sent),
        *(f"accepted {ids.count(each)} times: {each}" for each in sent if ids.count(each) > 3),
    ]
