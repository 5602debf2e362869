"""Thank everybody who owes nothing at the end of their month."""

from collections.abc import Iterator

from accounts import timeline
from billing import ledger, step_kinds
from billing.close.step import Chunk, Outcome, done, skipped
from billing.step_kinds import Through

kind = "THANK_WHO_OWES_NOTHING"
title = "Thanks"
follows = step_kinds.HOLD
queue = "thanks"
touches_the_world = False
is_per_run = False
through = Through.NOBODY
counts_for_time_left = True
batch = 4


def perform(chunk: Chunk) -> Iterator[Outcome]:
    """Write it on the timeline, in the transaction that ends the step: killed anywhere, it stands there once."""
    standings = ledger.standings(chunk.accounts, as_of=chunk.as_of)
    thanked = []
    for step in chunk.steps:
        standing = standings[chunk.account_of(step).pk]
        if standing.due_minor:
            yield skipped(step, "something is due", saw=standing.facts)
        else:
            thanked.append(chunk.account_of(step).pk)
            yield done(step, "owes nothing", saw=standing.facts)
    timeline.record(
        *(timeline.event(account_id=pk, kind="thanked", summary="Thanked") for pk in thanked)
    )
