"""Write down the finance answer, once, when no account of the run has an open step."""

from collections.abc import Iterator

from billing.close.step import Chunk, Outcome, done
from billing.models import CloseRun, Step
from billing.reports import finance

kind = Step.Kind.REPORT
follows = None
queue = "default"
batch = 1
touches_the_world = False


def perform(chunk: Chunk) -> Iterator[Outcome]:
    """Finish the run with its numbers as of now."""
    [step] = chunk.steps
    chunk.run.state = CloseRun.State.FINISHED
    chunk.run.finished_at = chunk.as_of
    chunk.run.report = finance.answer(chunk.run, as_of=chunk.as_of)
    chunk.run.save(update_fields=["state", "finished_at", "report"])
    yield done(step, "the run is finished")
