"""What was decided of a refund, for the account's pages and its timeline."""

from datetime import datetime

from accounts import timeline
from billing import decisions, ledger
from billing.models import Decision, Refund


def note(
    current: Refund,
    summary: str,
    *,
    as_of: datetime,
    did: str = Decision.Did.DONE,
    actor: str = "",
) -> None:
    """Record a decision about a refund, and put it on its account's timeline."""
    who = actor or current.requested_by
    decisions.record(
        decisions.decision(
            act="REFUND",
            did=did,
            because=summary,
            account_id=current.account_id,
            expected={"amount_minor": current.amount_minor, "currency": current.currency},
            saw=ledger.standing(current.account_id, as_of=as_of).facts,
            attempt=current.payment.attempt,
            actor=who,
        )
    )
    timeline.record(
        timeline.event(
            account_id=current.account_id,
            kind="payment.refund",
            summary=summary,
            actor=who,
            payment=current.payment_id,
            refund=str(current.pk),
        )
    )
