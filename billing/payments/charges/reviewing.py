"""An attempt that a person has to look at: taken over by name, and ended with a reason."""

import uuid
from datetime import datetime

from django.db import transaction

from accounts import timeline
from billing import charge_protocol, decisions, ledger, locks
from billing.charge_protocol import Move, State
from billing.models import Decision, PaymentAttempt
from billing.payments.charges import collecting


class NotInReview(Exception):
    """The attempt has come to its end meanwhile, or goes on by itself."""


@transaction.atomic(durable=True)
def take_review(*, attempt_id: uuid.UUID, owner: str) -> PaymentAttempt:
    """
    Put a person's name on an attempt in review: theirs to look after, until a colleague takes it.

    :raises NotInReview: if it is in review no longer.
    """
    attempt = _locked(attempt_id)
    if attempt.state != State.REVIEW:
        raise NotInReview(str(attempt))
    if attempt.review_owner != owner:
        attempt.review_owner = owner
        attempt.save(update_fields=["review_owner", "updated_at"])
        summary = f"{owner} looks after the payment in review: {attempt.because}"
        _note_review(attempt, summary, actor=owner)
    return attempt


def resolve_review(
    *, attempt_id: uuid.UUID, reason: str, actor: str, as_of: datetime
) -> PaymentAttempt:
    """
    End an attempt in review: by what the provider says now, or else by what a person saw there.

    The provider is asked first, and what it says goes. What stays in review after that has no answer, or
    took money in a currency that cannot be booked: it is released, since a person says, with a reason,
    that nothing was taken or that it was given back. Should the provider say later that it has taken our
    own currency after all, that is booked as from any state.

    :raises NotInReview: if it is in review no longer.
    """
    attempt = PaymentAttempt.objects.get(pk=attempt_id)
    if attempt.state != State.REVIEW:
        raise NotInReview(str(attempt))
    collecting.ask([attempt], as_of=as_of)
    return _resolve(attempt_id, reason=reason, actor=actor, as_of=as_of)


@transaction.atomic(durable=True)
def _resolve(attempt_id: uuid.UUID, *, reason: str, actor: str, as_of: datetime) -> PaymentAttempt:
    attempt = _locked(attempt_id)
    if attempt.state == State.REVIEW:
        attempt.state = charge_protocol.moved(State.REVIEW, Move.RESOLVED)
        attempt.resolved_by = actor
        attempt.because = f"released by {actor}: {reason}"[:300]
        attempt.next_action_at = None
        attempt.unknown_since = None
        attempt.save()
    decisions.record(
        decisions.decision(
            act="REVIEW",
            did=Decision.Did.DONE,
            because=f"{attempt.get_state_display()}: {reason}",
            account_id=attempt.account_id,
            expected={"due_minor": attempt.amount_minor, "currency": attempt.currency},
            saw=ledger.standing(attempt.account_id, as_of=as_of).facts,
            attempt=attempt,
            actor=actor,
        )
    )
    summary = f"Payment in review resolved, {attempt.get_state_display().lower()}: {reason}"
    _note_review(attempt, summary, actor=actor)
    return attempt


def _locked(attempt_id: uuid.UUID) -> PaymentAttempt:
    locks.account_for_update(PaymentAttempt.objects.get(pk=attempt_id).account_id)
    return locks.attempt_for_update(attempt_id)


def _note_review(attempt: PaymentAttempt, summary: str, *, actor: str) -> None:
    timeline.record(
        timeline.event(
            account_id=attempt.account_id,
            kind="payment.review",
            summary=summary,
            actor=actor,
            attempt=str(attempt.pk),
        )
    )
