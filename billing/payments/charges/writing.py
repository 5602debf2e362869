"""Many attempts written back in one statement: what a phase may have changed of them, and no more."""

from collections.abc import Sequence

from django.db import connection

from billing.models import PaymentAttempt

# Amount, card, gateway and what else was reserved never change.
COLUMNS = {
    "state": "text",
    "provider_ref": "text",
    "decline_code": "text",
    "advice_code": "text",
    "decline_class": "text",
    "case_id": "bigint",
    "because": "text",
    "next_action_at": "timestamptz",
    "submitted_at": "timestamptz",
    "unknown_since": "timestamptz",
}
SAVE = f"""
UPDATE billing_paymentattempt a
   SET {", ".join(f"{name} = changed.{name}" for name in COLUMNS)}, updated_at = now()
  FROM unnest(%(id)s::uuid[], {", ".join(f"%({name})s::{kind}[]" for name, kind in COLUMNS.items())})
       AS changed(id, {", ".join(COLUMNS)})
 WHERE a.id = changed.id
"""


def save_all(attempts: Sequence[PaymentAttempt]) -> None:
    """Write the (locked) attempts back, in the caller's transaction."""
    if not attempts:
        return
    values = {name: [getattr(attempt, name) for attempt in attempts] for name in ("id", *COLUMNS)}
    with connection.cursor() as cursor:
        cursor.execute(SAVE, values)


# What a driver may find changed of an attempt that it has in hand.
CHANGING = (*COLUMNS, "key_generation", "created_at")


def refresh(attempt: PaymentAttempt, now: PaymentAttempt) -> None:
    """Bring the attempt in hand up to its row, which was read as `now`."""
    for name in CHANGING:
        setattr(attempt, name, getattr(now, name))
