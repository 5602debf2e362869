"""Disputes as a provider would show them."""

from datetime import UTC, datetime

from billing.gateways import DisputeSeen, DisputeStatus
from billing.models import Payment

OPENED_AT = datetime(2018, 11, 20, 12, 0, tzinfo=UTC)
EVIDENCE_DUE_AT = datetime(2018, 11, 29, 12, 0, tzinfo=UTC)


def seen_of(
    payment: Payment, status: DisputeStatus = DisputeStatus.OPEN, **facts: object
) -> DisputeSeen:
    """The whole payment is disputed, and as far as this."""
    is_open = status is DisputeStatus.OPEN
    return DisputeSeen(
        **{
            "ref": f"du_{payment.pk}",
            "charge_ref": payment.provider_ref,
            "amount_minor": payment.amount_minor,
            "currency": payment.currency,
            "fee_minor": 0,
            "status": status,
            "is_withdrawn": status is not DisputeStatus.INQUIRY,
            "is_over": status in {DisputeStatus.WON, DisputeStatus.LOST},
            "reason": "fraudulent",
            "evidence_due_at": EVIDENCE_DUE_AT if is_open else None,
            "made_at": OPENED_AT,
            **facts,
        }
    )
