"""What went back of a customer's payments, and where it stands, in their words."""

from collections import defaultdict
from collections.abc import Collection, Iterator
from datetime import datetime

from django.utils.translation import gettext as _

from billing.models import PaymentReversal, Refund
from billing.views.access import Seat

State = Refund.State


def by_payment(seat: Seat, payment_ids: Collection[int]) -> dict[int, list[str]]:
    """For each of these payments of which anything went back: what, how much, when; in order of time."""
    told: dict[int, list[tuple[datetime, str]]] = defaultdict(list)
    for refund in Refund.objects.filter(payment__in=payment_ids).exclude(state=State.FAILED):
        for words in _refund(seat, refund):
            told[refund.payment_id].append((refund.requested_at, words))
    for reversal in PaymentReversal.objects.filter(payment__in=payment_ids).select_related(
        "payment"
    ):
        told[reversal.payment_id].append((reversal.reversed_at, _reversal(seat, reversal)))
    return {pk: [words for _at, words in sorted(lines)] for pk, lines in told.items()}


def _refund(seat: Seat, refund: Refund) -> Iterator[str]:
    """Whether one in review has left us nobody knows yet; to them it is on its way."""
    said = {
        "amount": seat.reader.money(refund.amount_minor, refund.currency),
        "date": seat.reader.date(refund.requested_at),
    }
    if refund.state in Refund.IN_FLIGHT:
        yield _("%(amount)s on its way back to you since %(date)s") % said
        return
    yield _("%(amount)s paid back on %(date)s") % said
    credit_minor = refund.amount_minor - refund.lost_minor
    if refund.state == State.RETURNED and credit_minor:
        credit = seat.reader.money(credit_minor, refund.currency)
        yield _("%(amount)s of that came back from your bank: it is your credit") % {
            "amount": credit
        }


def _reversal(seat: Seat, reversal: PaymentReversal) -> str:
    return _("%(amount)s taken back by your bank on %(date)s") % {
        "amount": seat.reader.money(reversal.amount_minor, reversal.payment.currency),
        "date": seat.reader.date(reversal.reversed_at),
    }
