"""The warning, after an invoice was due: pay until that day, or the account is put on hold."""

from collections.abc import Sequence
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

from accounts import pauses, zones
from accounts.models import Account, Hold
from billing import ledger
from billing.ledger import Standing
from billing.messages.letters import compose, tell
from billing.messages.outlook import HOLD_WARNING
from billing.messages.rechecks import Looked, cancel, keep_or_rerender, one_by_one, subject
from billing.models import Invoice
from billing.references import reference_of
from notifications.catalog import Verdict
from notifications.formats import Reader
from notifications.models import Message
from notifications.outbox import Letter


def hold_warning(
    past_due: Sequence[Invoice], *, account: Account, standing: Standing
) -> Message | None:
    """
    Warn the customer that the account will be put on hold: for what, and until when to pay.

    It is about the oldest of the invoices that are past due. Told again only where an earlier one was given up.
    """
    about = past_due[0].pk
    before = Message.objects.filter(kind=HOLD_WARNING, fact__startswith=f"invoice:{about}:")
    fact = f"invoice:{about}:{before.count() + 1}"
    return tell(_hold_warning(fact, past_due[0], account=account, standing=standing))


def _hold_warning(fact: str, oldest: Invoice, *, account: Account, standing: Standing) -> Letter:
    reader = Reader.of(account)
    held_on = _last_day(account, as_of=standing.as_of)
    context = {
        "overdue": reader.money(standing.uncovered_minor, account.currency),
        "number": oldest.number,
        "due_date": reader.day(oldest.last_day(reader.time_zone)),
        "last_day": reader.day(held_on),
        "bank_details": account.entity.bank_details,
        "reference": reference_of(account.pk),
    }
    return compose(
        HOLD_WARNING,
        fact,
        context,
        account=account,
        due_minor=standing.due_minor,
        as_of=standing.as_of,
        overdue_minor=standing.uncovered_minor,
        last_day=held_on.isoformat(),
    )


def _last_day(account: Account, *, as_of: datetime) -> date:
    """The last day of the grace that it leaves, if it is delivered today."""
    today = as_of.astimezone(ZoneInfo(zones.or_utc(account.time_zone))).date()
    return today + timedelta(days=account.entity.grace_days or 0)


@one_by_one
def recheck_hold_warning(looked: Looked, as_of: datetime) -> Verdict:
    """Cancel it once nothing is overdue that we still wait for; write the last day anew if it is sent later."""
    message, account, standing = looked
    if not standing.uncovered_minor:
        because = "a payment is on its way" if standing.in_flight_minor else "nothing is overdue"
        return cancel(message, standing, because=because)
    if paused := pauses.because_of([account.pk]).get(account.pk):
        return cancel(message, standing, because=paused)
    if Hold.objects.filter(account=account, lifted_at=None).exists():
        return cancel(message, standing, because="the account is on hold already")
    past_due = ledger.past_due_invoices([account.pk], as_of=as_of)[account.pk]
    about = {str(invoice.pk): invoice for invoice in past_due}
    if (invoice := about.get(subject(message))) is None:
        return cancel(message, standing, because="that invoice is settled")
    anew = _hold_warning(message.fact, invoice, account=account, standing=standing)
    return keep_or_rerender(message, standing, lambda: anew)
