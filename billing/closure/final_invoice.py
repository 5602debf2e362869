"""The invoice for what a (locked) account has used and no invoice has taken."""

from datetime import date, datetime
from zoneinfo import ZoneInfo

from accounts import zones
from accounts.models import Account
from billing import ledger, messages, periods, unbillable
from billing.invoices import drafting, issuing
from billing.messages import Bill
from billing.models import Invoice, UsageSummary


class CannotInvoice(Exception):
    """Something that was used cannot be invoiced; the message says what mends it."""


def issue(account: Account, *, as_of: datetime) -> Invoice | None:
    """
    Issue it, up to now; None where nothing was used.

    :raises CannotInvoice: if the catalogue has no price for something, or the account cannot be billed.
    """
    if not UsageSummary.objects.filter(account=account, invoice=None).exists():
        return None
    if because := unbillable.why(account):
        raise CannotInvoice(because)
    drafted = drafting.draft_invoices([account], month=_month(account, as_of=as_of))
    if account.pk in drafted.unpriced:
        raise CannotInvoice(str(drafted.unpriced[account.pk]))
    invoice = drafted.invoices[account.pk]
    issuing.issue_invoices([invoice], accounts={account.pk: account}, as_of=as_of)
    return invoice


def send(invoice: Invoice, account: Account, *, as_of: datetime) -> None:
    """Write its mail, where there is somebody to write to."""
    if account.email:
        standing = ledger.standing(account.pk, as_of=as_of)
        whole = Invoice.objects.select_related("period", "entity").get(pk=invoice.pk)
        messages.invoices_issued([Bill(whole, account, standing.due_minor)], as_of=as_of)


def _month(account: Account, *, as_of: datetime) -> date:
    """The month that goes on where the account is; or the first after that which has no invoice."""
    now = as_of.astimezone(ZoneInfo(zones.or_utc(account.time_zone))).date().replace(day=1)
    used: date | None = (
        UsageSummary.objects.filter(account=account, invoice=None)
        .order_by("-period__month")
        .values_list("period__month", flat=True)
        .first()
    )
    latest: date | None = (
        Invoice.objects.filter(account=account)
        .order_by("-period__month")
        .values_list("period__month", flat=True)
        .first()
    )
    after = [] if latest is None else [periods.next_month(latest)]
    return max([now, *([used] if used else []), *after])
