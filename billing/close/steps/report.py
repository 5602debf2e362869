"""Write down the finance answer, once, when no account of the run has an open step."""

from collections.abc import Iterator

from billing import step_kinds
from billing.close.step import Chunk, Outcome, done
from billing.models import CloseRun
from billing.reports import finance
from billing.step_kinds import Through
from billing.workers import doorbell

kind = step_kinds.REPORT
title = "Report"
follows = None
queue = doorbell.DEFAULT
touches_the_world = False
is_per_run = True
through = Through.NOBODY
counts_for_time_left = False
batch = 1


def perform(chunk: Chunk) -> Iterator[Outcome]:
    """Finish the run with its numbers as of now."""
    [step] = chunk.steps
    chunk.run.state = CloseRun.State.FINISHED
    chunk.run.finished_at = chunk.as_of
    chunk.run.report = finance.answer(chunk.run, as_of=chunk.as_of)
    chunk.run.save(update_fields=["state", "finished_at", "report"])
    yield done(step, "the run is finished")
