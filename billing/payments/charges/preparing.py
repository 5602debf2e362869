"""T2, store: keep the ids of the objects that providers have made."""

from collections.abc import Mapping

from django.db import transaction

from billing import charge_protocol, locks
from billing.charge_protocol import Move, State
from billing.gateways import Observation
from billing.models import PaymentAttempt
from billing.payments.charges import writing


@transaction.atomic(durable=True)
def store(made: Mapping[PaymentAttempt, Observation]) -> None:
    """Keep the ids of the providers' objects, unless another driver has taken it on meanwhile."""
    store_in(made)


def store_in(made: Mapping[PaymentAttempt, Observation]) -> None:
    """The same in the caller's transaction. The attempts in hand are brought up to their rows."""
    current = {a.pk: a for a in locks.attempts_for_update([attempt.pk for attempt in made])}
    stored = []
    for attempt, seen in made.items():
        now = current[attempt.pk]
        if now.state == State.RESERVED:
            now.state = charge_protocol.moved(State.RESERVED, Move.STORED)
            now.provider_ref = seen.ref
            now.unknown_since = None
            stored.append(now)
    writing.save_all(stored)
    for attempt in made:
        writing.refresh(attempt, current[attempt.pk])
