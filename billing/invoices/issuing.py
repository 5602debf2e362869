"""
Issue drafted invoices: numbered without gaps, booked, never changed again.

Many accounts at once; the caller holds their locks. One account is a list of one.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from django.db import connection

from accounts import timeline
from accounts.models import Account, BillingEntity, TimelineEvent
from billing import ledger, locks, periods
from billing.invoices import credits
from billing.models import CreditGrant, Invoice
from billing.money import money


def issue_invoices(
    invoices: Sequence[Invoice], *, accounts: Mapping[int, Account], as_of: datetime
) -> None:
    """
    Issue drafts of (locked) accounts: number, book, apply credit, in one transaction.

    An invoice of zero or less is settled at once; one below zero becomes credit.
    """
    entities = BillingEntity.objects.in_bulk({invoice.entity_id for invoice in invoices})
    for entity in entities.values():
        _number([i for i in invoices if i.entity_id == entity.pk], entity=entity, as_of=as_of)
    for invoice in invoices:
        _set_due_date(invoice, accounts[invoice.account_id], entities[invoice.entity_id])
    _save_issued(invoices)
    ledger.post([ledger.invoice_issued(invoice) for invoice in invoices if invoice.total_minor])
    CreditGrant.objects.bulk_create(_credit(i) for i in invoices if i.total_minor < 0)
    timeline.record(*(_issued(invoice) for invoice in invoices))
    credits.apply_credits([accounts[invoice.account_id] for invoice in invoices], as_of=as_of)


def _number(invoices: Sequence[Invoice], *, entity: BillingEntity, as_of: datetime) -> None:
    # Every issuing transaction of the entity waits here, so a number is never given twice or skipped,
    # and a later number never has an earlier time.
    series = locks.number_series_for_update(entity)
    issued_at = max(as_of, series.last_issued_at or as_of)
    for sequence, invoice in enumerate(invoices, start=series.next_number):
        invoice.state = Invoice.State.ISSUED
        invoice.sequence = sequence
        invoice.number = f"{entity.invoice_prefix}-{sequence:06d}"
        invoice.issued_at = issued_at
        invoice.settled_at = issued_at if invoice.total_minor <= 0 else None
    series.next_number += len(invoices)
    series.last_issued_at = issued_at
    series.save(update_fields=["next_number", "last_issued_at"])


def _set_due_date(invoice: Invoice, account: Account, entity: BillingEntity) -> None:
    assert invoice.issued_at is not None, f"{invoice} has no number yet"
    issued_on = invoice.issued_at.astimezone(ZoneInfo(account.time_zone)).date()
    if entity.payment_terms_days is None:
        invoice.due_date, invoice.due_at = issued_on, invoice.issued_at
        return
    invoice.time_zone = account.time_zone
    invoice.due_date = issued_on + timedelta(days=entity.payment_terms_days)
    invoice.due_at = periods.first_instant_after(invoice.due_date, account.time_zone)


def _save_issued(invoices: Sequence[Invoice]) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            ISSUE,
            {
                "invoices": [invoice.pk for invoice in invoices],
                "sequences": [invoice.sequence for invoice in invoices],
                "numbers": [invoice.number for invoice in invoices],
                "issued": [invoice.issued_at for invoice in invoices],
                "due": [invoice.due_at for invoice in invoices],
                "due_on": [invoice.due_date for invoice in invoices],
                "zones": [invoice.time_zone for invoice in invoices],
                "settled": [invoice.settled_at for invoice in invoices],
            },
        )


ISSUE = """
UPDATE billing_invoice invoice
   SET state = 'ISSUED', sequence = issued.sequence, number = issued.number, issued_at = issued.issued_at,
       due_at = issued.due_at, due_date = issued.due_date, time_zone = issued.time_zone,
       settled_at = issued.settled_at
  FROM unnest(%(invoices)s::bigint[], %(sequences)s::bigint[], %(numbers)s::text[], %(issued)s::timestamptz[],
              %(due)s::timestamptz[], %(due_on)s::date[], %(zones)s::text[], %(settled)s::timestamptz[])
       AS issued(id, sequence, number, issued_at, due_at, due_date, time_zone, settled_at)
 WHERE invoice.id = issued.id
"""


def _credit(invoice: Invoice) -> CreditGrant:
    return CreditGrant(
        account_id=invoice.account_id,
        kind=CreditGrant.Kind.INVOICE,
        currency=invoice.currency,
        amount_minor=-invoice.total_minor,
        remaining_minor=-invoice.total_minor,
        reason=f"Invoice {invoice.number} is a credit",
    )


def _issued(invoice: Invoice) -> TimelineEvent:
    return timeline.event(
        account_id=invoice.account_id,
        kind="invoice.issued",
        summary=f"Invoice {invoice.number} issued: {money(invoice.total_minor, invoice.currency)}",
        invoice=invoice.pk,
    )
