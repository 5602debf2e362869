"""
The steps of the close, on one screen.

    invoice ──▶ charge ──▶ hold
       └──────▶ email                 … and when no account step is open: report, once per run

Each is readied by the one it follows, in the transaction that finished that one.
"""

from typing import cast

from billing.close.step import ChunkModule, FlowModule
from billing.close.steps import charge, email, hold, invoice, report

STEPS = cast("tuple[ChunkModule | FlowModule, ...]", (invoice, charge, email, hold, report))
KINDS = [step.kind for step in STEPS]
BY_KIND = {step.kind: step for step in STEPS}
QUEUES = tuple(dict.fromkeys(step.queue for step in STEPS))


def followers(kind: str) -> list[ChunkModule | FlowModule]:
    """The steps that wait for this kind."""
    return [step for step in STEPS if step.follows == kind]


def all_followers(kind: str) -> list[str]:
    """The kinds that wait for this one, directly or not."""
    direct = [step.kind for step in followers(kind)]
    return direct + [further for each in direct for further in all_followers(each)]
