"""A close, a kind of step at a time, in this process; and what was decided on the way."""

from collections.abc import Callable, Sequence
from datetime import date, datetime

from django.db import connection

from accounts.models import Account
from billing import books
from billing.close import pipeline, runs, steering
from billing.close.engine import runner
from billing.models import CloseRun, Decision, Step
from tests.factories import AS_OF, OCTOBER, EntityFactory

ANN = "ann@example.com"


def start_close(month: date = OCTOBER, *, as_of: datetime = AS_OF, **facts: object) -> CloseRun:
    """Start the close of October 2018, on 2 November."""
    facts = {"entity": EntityFactory(), "started_by": "test", **facts}
    run, _ = runs.start(month=month, as_of=as_of, **facts)
    return run


def work(*kinds: str, as_of: datetime = AS_OF) -> None:
    """Work on these kinds of step until none of them comes to its end any more."""
    ended = -1
    while ended != (ended := Step.objects.exclude(state__in=Step.OPEN).count()):
        for kind in kinds:
            work_once(kind, as_of=as_of)


def work_once(kind: str, *, as_of: datetime = AS_OF) -> int:
    """Work on one chunk of a kind of step."""
    return runner.work_once(pipeline.BY_KIND[kind], as_of=as_of)


def finish(run: CloseRun, *, as_of: datetime = AS_OF) -> CloseRun:
    """Work on everything, then on the report."""
    work("INVOICE", "CHARGE", "EMAIL", "HOLD", as_of=as_of)
    runs.release_report(run.pk)
    work("REPORT", as_of=as_of)
    run.refresh_from_db()
    return run


def step_of(account: Account, kind: str) -> Step:
    """The account's latest step of a kind."""
    return Step.objects.select_related("run").filter(account=account, kind=kind).latest("pk")


def decision_on(account: Account, act: str) -> Decision:
    """What was decided last about an act on the account."""
    return Decision.objects.filter(account=account, act=act).latest("pk")


def states() -> dict[str, int]:
    """How many steps there are in each state."""
    return {
        state: count
        for state in Step.State.values
        if (count := Step.objects.filter(state=state).count())
    }


def assert_books_hold(*, as_of: datetime = AS_OF, waiting: Sequence[str] = ()) -> None:
    """
    Every promise of the books, those of the close and of the provider's own book among them.

    `waiting`: the kinds of what waits for longer than it may, so that somebody is told.
    """
    # Factories make summaries without the events behind them.
    checked = [
        p.name for p in books.promises() if p.name != "book_usage_tallied_events_are_counted"
    ]
    broken = books.check(as_of=as_of, only=checked)
    waits = {f"book_wait_{kind}" for kind in waiting}
    assert waits <= {finding.promise.name for finding in broken}
    other = [finding for finding in broken if finding.promise.name not in waits]
    assert not other, [(finding.promise.sentence, finding.rows) for finding in other]


def in_a_thread_of_the_provider(act: Callable[[], object]) -> Callable[[], None]:
    """The act, for a provider's call to make: it runs in the call's own thread, and leaves no connection."""

    def do() -> None:
        try:
            act()
        finally:
            connection.close()

    return do


def retry(*steps: Step, as_of: datetime = AS_OF) -> int:
    """Retry these steps, as Ann."""
    ids = [step.pk for step in steps]
    return steering.retry(ids, actor=ANN, reason="mended", as_of=as_of)


def cancel(*steps: Step, as_of: datetime = AS_OF) -> int:
    """Cancel these steps, as Ann."""
    ids = [step.pk for step in steps]
    return steering.cancel(ids, actor=ANN, reason="not theirs", as_of=as_of)
