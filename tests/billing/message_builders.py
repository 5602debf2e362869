"""What messages are about, as rows in the books: each states only what the test is about."""

from datetime import UTC, date, datetime, timedelta
from typing import Any

from accounts.models import Account, Hold, PaymentMethod
from billing import ledger, messages
from billing.messages import Bill
from billing.models import (
    Allocation,
    BillingPeriod,
    CreditGrant,
    GatewayGuard,
    Invoice,
    LineItem,
    Payment,
    PaymentAttempt,
    Product,
)
from notifications.models import Message
from tests.notifications.builders import AS_OF

LATER = AS_OF + timedelta(hours=2)


def issued(of: Account, *, lines: dict[str, int] | None = None, **said: Any) -> Invoice:
    """An issued invoice, in the books."""
    month = date(2026, 10 - of.invoices.count(), 1)
    starts_at = datetime(month.year, month.month, 1, tzinfo=UTC)
    period = BillingPeriod.objects.create(
        account=of, month=month, starts_at=starts_at, ends_at=starts_at + timedelta(days=28)
    )
    lines = {"Compute": 1000} if lines is None else lines
    sequence = Invoice.objects.count() + 1
    invoice = Invoice.objects.create(
        entity=of.entity,
        account=of,
        period=period,
        account_name=of.name,
        currency=of.currency,
        total_minor=sum(lines.values()),
    )
    for position, (name, minor) in enumerate(lines.items()):
        product, _ = Product.objects.get_or_create(code=name, defaults={"name": name})
        LineItem.objects.create(
            invoice=invoice,
            position=position,
            kind="USAGE",
            product=product,
            description=name,
            quantity=1,
            amount_unrounded=minor,
            amount_minor=minor,
            starts_at=period.starts_at,
            ends_at=period.ends_at,
        )
    invoice.state = Invoice.State.ISSUED
    invoice.sequence, invoice.number = sequence, f"AC-{sequence:06}"
    invoice.issued_at, invoice.due_at = AS_OF, said.pop("due_at", AS_OF + timedelta(days=14))
    invoice.due_date = said.pop("due_date", None)
    invoice.save()
    if invoice.total_minor:
        ledger.post([ledger.invoice_issued(invoice)])
    return invoice


def pay(invoice: Invoice, amount_minor: int) -> Payment:
    """A payment, in the books; it settles the invoice if it is enough."""
    payment = Payment.objects.create(
        account=invoice.account,
        gateway="manual",
        provider_ref=f"transfer-{Payment.objects.count()}",
        currency=invoice.currency,
        amount_minor=amount_minor,
        method="Bank transfer 17",
        received_at=LATER,
    )
    Allocation.objects.create(invoice=invoice, payment=payment, amount_minor=amount_minor)
    entity_id = invoice.entity_id
    ledger.post(
        [ledger.payment_received(payment, allocated_minor=amount_minor, entity_id=entity_id)]
    )
    _settle(invoice)
    return payment


def grant(invoice: Invoice, amount_minor: int) -> None:
    """A credit granted and used on the invoice."""
    given = CreditGrant.objects.create(
        account=invoice.account,
        kind=CreditGrant.Kind.GOODWILL,
        currency=invoice.currency,
        amount_minor=amount_minor,
        remaining_minor=0,
        reason="Sorry",
    )
    allocation = Allocation.objects.create(invoice=invoice, grant=given, amount_minor=amount_minor)
    entity_id = invoice.entity_id
    ledger.post(
        [
            ledger.credit_granted(given, entity_id=entity_id, as_of=LATER),
            ledger.credit_applied(
                given,
                allocation_id=allocation.pk,
                amount_minor=amount_minor,
                entity_id=entity_id,
                as_of=LATER,
            ),
        ]
    )
    _settle(invoice)


def _settle(invoice: Invoice) -> None:
    if sum(a.amount_minor for a in invoice.allocations.all()) == invoice.total_minor:
        invoice.settled_at = LATER
        invoice.save(update_fields=["settled_at"])


def card(of: Account, **said: Any) -> PaymentMethod:
    return PaymentMethod.objects.create(
        **{
            "account": of,
            "gateway": "sandbox",
            "token": "tok",
            "brand": "Visa",
            "last_four": "4242",
            "expiry_month": 12,
            "expiry_year": 2030,
            "is_default": True,
            **said,
        }
    )


def in_flight(of: Account, state: str, **said: Any) -> PaymentAttempt:
    """The close's charge of €10.00, by a card that is added for it."""
    return PaymentAttempt.objects.create(
        **{
            "account": of,
            "kind": PaymentAttempt.Kind.AUTO,
            "currency": of.currency,
            "amount_minor": 1000,
            "payment_method": card(of),
            "gateway": "sandbox",
            "state": state,
            **said,
        }
    )


def close_gateway() -> None:
    """The sandbox waits until its provider was listed."""
    GatewayGuard.objects.create(
        gateway="sandbox",
        database_identity="another",
        server_started_at=LATER,
        checked_at=LATER,
        paused_at=LATER,
        paused_because="the database was restored",
    )


def declined(of: Account, decline_code: str = "insufficient_funds") -> PaymentAttempt:
    return PaymentAttempt.objects.create(
        account=of,
        kind=PaymentAttempt.Kind.AUTO,
        currency=of.currency,
        amount_minor=1000,
        payment_method=card(of),
        gateway="sandbox",
        state=PaymentAttempt.State.FAILED,
        decline_code=decline_code,
    )


def held(of: Account, reason: str = Hold.Reason.OVERDUE) -> Hold:
    return Hold.objects.create(account=of, reason=reason, placed_at=AS_OF)


def tell_of(invoice: Invoice) -> Message:
    due_minor = ledger.standing(invoice.account_id, as_of=AS_OF).due_minor
    [message] = messages.invoices_issued([Bill(invoice, invoice.account, due_minor)], as_of=AS_OF)
    assert message is not None
    return message
