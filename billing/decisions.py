"""Decisions: what was expected, what was seen under the lock, what was done, and why; written down, and in words."""

import json
from typing import Any

from django.db import connection

from billing.models import Decision
from notifications import formats


def record(*decisions: Decision) -> None:
    """Append the decisions in the caller's transaction."""
    if not decisions:
        return
    with connection.cursor() as cursor:
        cursor.execute(
            RECORD,
            {
                "acts": [decision.act for decision in decisions],
                "did": [decision.did for decision in decisions],
                "because": [decision.because for decision in decisions],
                "expected": [json.dumps(decision.expected) for decision in decisions],
                "saw": [json.dumps(decision.saw) for decision in decisions],
                "world_changed": [decision.world_changed for decision in decisions],
                "accounts": [decision.account_id for decision in decisions],
                "runs": [decision.run_id for decision in decisions],
                "attempts": [decision.attempt_id for decision in decisions],
                "holds": [decision.hold_id for decision in decisions],
                "actors": [decision.actor for decision in decisions],
            },
        )


# In one statement of fixed length: a close writes one for every step.
RECORD = """
INSERT INTO billing_decision
       (act, did, because, expected, saw, world_changed, account_id, run_id, attempt_id, hold_id, actor)
SELECT * FROM unnest(%(acts)s::text[], %(did)s::text[], %(because)s::text[], %(expected)s::jsonb[],
                     %(saw)s::jsonb[], %(world_changed)s::boolean[], %(accounts)s::bigint[], %(runs)s::bigint[],
                     %(attempts)s::uuid[], %(holds)s::bigint[], %(actors)s::text[])
"""


def decision(
    *,
    act: str,
    did: str,
    because: str,
    account_id: int | None,
    expected: dict[str, Any] | None = None,
    saw: dict[str, Any] | None = None,
    world_changed: bool = False,
    **links: Any,
) -> Decision:
    """Make, not yet save, one decision. `links`: run_id, attempt, hold, actor."""
    return Decision(
        act=act,
        did=did,
        because=because[:300],
        account_id=account_id,
        expected=expected or {},
        saw=saw or {},
        world_changed=world_changed,
        **links,
    )


def in_words(seen: dict[str, Any]) -> str:
    """Say the amounts that a decision expected or saw: "due €12.00, credit €3.00"; empty if there are none."""
    currency = seen.get("currency")
    if not currency:
        return ""
    said = [
        f"{title} {formats.money(minor, currency, 'en')}"
        for name, title in AMOUNTS.items()
        if (minor := seen.get(name)) or (name == "due_minor" and minor is not None)
    ]
    return ", ".join(said)


# As Standing.facts names them, and what was charged.
AMOUNTS = {
    "due_minor": "due",
    "charged_minor": "charged",
    "overdue_minor": "overdue",
    "credit_minor": "credit",
    "in_flight_minor": "in flight",
}
