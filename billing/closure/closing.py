"""The act: close an account, and invoice what was used."""

import uuid
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db import transaction

from accounts import timeline
from accounts.models import Account
from billing import decisions, dunning, gateways, ledger, locks
from billing.closure import final_invoice
from billing.closure.final_invoice import CannotInvoice
from billing.invoices import credits
from billing.models import AccountClosure, CreditGrant, Decision, Invoice, Payment
from billing.money import money
from billing.payments import guard, refunds
from billing.usage import tallying


class CannotClose(Exception):
    """The account was not closed, and why."""


class AlreadyClosed(CannotClose):
    """It is closed: the form was sent twice, or a colleague was quicker."""


class ChangedMeanwhile(CannotClose):
    """What is invoiced, due or left as credit is not what was shown."""


class PaymentOnItsWay(CannotClose):
    """What is due is not known before a payment has come to its end, so it cannot be written off."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a person decided, looking at these amounts; in minor units of the account's currency."""

    token: uuid.UUID
    debt: str
    credit: str
    because: str
    actor: str
    # As the page showed them; None: whatever they are.
    invoiced_minor: int | None = None
    due_minor: int | None = None
    credit_minor: int | None = None


def close_account(*, account_id: int, wanted: Wanted, as_of: datetime) -> AccountClosure:
    """
    Close an account: invoice what was used, then write off, pay back, or leave as it stands.

    A charge that was decided on is made by `charge_due`, which the sweep calls too; what is paid back is sent as
    every refund is.

    :raises AlreadyClosed: if it is closed.
    :raises ChangedMeanwhile: if the amounts are not those that were shown.
    :raises PaymentOnItsWay: if its debt is to be written off, and a payment is on its way.
    :raises CannotClose: if what was used cannot be invoiced.
    """
    tallying.tally_everything(as_of=as_of)
    stopped: dict[str, str] = {}
    if wanted.credit == AccountClosure.Credit.PAY_BACK:
        stopped = guard.watch(_gateways_to_pay_back(account_id))
    return _close(account_id, wanted, stopped, as_of=as_of)


@transaction.atomic(durable=True)
def _close(
    account_id: int, wanted: Wanted, stopped: dict[str, str], *, as_of: datetime
) -> AccountClosure:
    account = locks.account_for_update(account_id)
    if AccountClosure.objects.standing([account_id]).exists():
        raise AlreadyClosed("the account is closed already")
    if AccountClosure.objects.filter(token=wanted.token).exists():
        raise AlreadyClosed("the account was closed, and has been opened again since")
    invoice = _invoice(account, as_of=as_of)
    before = ledger.standing(account_id, as_of=as_of)
    _check_as_shown(wanted, invoice, before)
    closure = AccountClosure(
        account=account,
        token=wanted.token,
        debt=wanted.debt,
        credit=wanted.credit,
        because=wanted.because[:300],
        closed_at=as_of,
        closed_by=wanted.actor,
        final_invoice=invoice,
    )
    if wanted.debt == AccountClosure.Debt.WRITE_OFF and before.due_minor > 0:
        closure.written_off_minor = _write_off(account, before, wanted, as_of=as_of)
    if wanted.debt == AccountClosure.Debt.CHARGE and before.due_minor > 0:
        closure.charge_at = as_of
    if wanted.credit == AccountClosure.Credit.PAY_BACK:
        closure.paid_back_minor = _pay_back(account, wanted, stopped, as_of=as_of)
    closure.save()
    account.state = Account.State.CLOSED
    account.save(update_fields=["state"])
    if (case := dunning.open_case(account_id)) is not None:
        dunning.close_case(case, because="the account was closed", as_of=as_of)
    if invoice is not None:
        final_invoice.send(invoice, account, as_of=as_of)
    _write_down(closure, before, as_of=as_of)
    return closure


@transaction.atomic(durable=True)
def invoice_later_usage(
    *, account_id: int, because: str, actor: str, as_of: datetime
) -> Invoice | None:
    """
    Invoice what came in after an account was closed; None where nothing has. Nothing is charged.

    :raises CannotClose: if it cannot be invoiced, or the account is open: then its next close does it.
    """
    account = locks.account_for_update(account_id)
    if not AccountClosure.objects.standing([account_id]).exists():
        raise CannotClose("the account is open: its next close invoices what was used")
    invoice = _invoice(account, as_of=as_of)
    if invoice is None:
        return None
    final_invoice.send(invoice, account, as_of=as_of)
    _decide(
        "INVOICE_LATER",
        account_id,
        because=because,
        saw={**ledger.standing(account_id, as_of=as_of).facts, "total_minor": invoice.total_minor},
        actor=actor,
    )
    return invoice


def _invoice(account: Account, *, as_of: datetime) -> Invoice | None:
    try:
        return final_invoice.issue(account, as_of=as_of)
    except CannotInvoice as error:
        raise CannotClose(str(error)) from error


def _check_as_shown(wanted: Wanted, invoice: Invoice | None, now: ledger.Standing) -> None:
    shown = (wanted.invoiced_minor, wanted.due_minor, wanted.credit_minor)
    are = (invoice.total_minor if invoice else 0, now.due_minor, now.credit_minor)
    if any(each not in {None, is_now} for each, is_now in zip(shown, are, strict=True)):
        raise ChangedMeanwhile("the amounts have changed since they were shown")


def _write_off(
    account: Account, before: ledger.Standing, wanted: Wanted, *, as_of: datetime
) -> int:
    """Credit that costs us a bad debt, used at once on all that is due."""
    if before.in_flight_minor:
        raise PaymentOnItsWay("a payment is on its way: what is due is known when that has ended")
    grant = CreditGrant.objects.create(
        account=account,
        kind=CreditGrant.Kind.WRITE_OFF,
        currency=account.currency,
        amount_minor=before.due_minor,
        remaining_minor=before.due_minor,
        reason=f"Written off: {wanted.because}"[:300],
        granted_by=wanted.actor,
    )
    ledger.post([ledger.credit_granted(grant, entity_id=account.entity_id, as_of=as_of)])
    credits.apply_credits([account], as_of=as_of)
    return before.due_minor


def _gateways_to_pay_back(account_id: int) -> list[str]:
    grants = _unused_of_payments(account_id)
    return sorted({payment.gateway for payment, _ in grants if not _is_by_hand(payment)})


def _unused_of_payments(account_id: int) -> list[tuple[Payment, int]]:
    """The account's payments of which credit is left, and how much, oldest first."""
    left: dict[int, int] = {}
    grants = CreditGrant.objects.filter(account=account_id, remaining_minor__gt=0)
    for grant in grants.exclude(payment=None).order_by("payment", "pk"):
        assert grant.payment_id is not None, "a grant of a payment"
        left[grant.payment_id] = left.get(grant.payment_id, 0) + grant.remaining_minor
    payments = Payment.objects.in_bulk(left)
    return [(payments[pk], minor) for pk, minor in sorted(left.items())]


def _is_by_hand(payment: Payment) -> bool:
    """Whether nobody but a person can pay it back: then it stays as credit, and the page says so."""
    try:
        return refunds.is_by_hand(payment)
    except gateways.Misconfigured:
        return True


def payable_minor(account_id: int) -> int:
    """How much of the account's credit can be paid back by itself."""
    return sum(_goes_back(payment, minor) for payment, minor in _unused_of_payments(account_id))


def _goes_back(payment: Payment, left_minor: int) -> int:
    """How much of what a payment has left its provider can pay back, to the last digit that it counts."""
    if _is_by_hand(payment):
        return 0
    minor = min(left_minor, refunds.refundable_minor(payment))
    return gateways.get(payment.gateway).chargeable_minor(max(minor, 0), payment.currency)


def _pay_back(account: Account, wanted: Wanted, stopped: dict[str, str], *, as_of: datetime) -> int:
    """Reserve a refund of what each payment has left. What a person has to pay back stays as credit."""
    paid_back_minor = 0
    for payment, left_minor in _unused_of_payments(account.pk):
        amount_minor = _goes_back(payment, left_minor)
        if amount_minor <= 0:
            continue
        try:
            refund = refunds.reserve_for_later(
                payment,
                account=account,
                amount_minor=amount_minor,
                token=uuid.uuid5(wanted.token, f"payment:{payment.pk}"),
                reason=f"The account is closed: {wanted.because}",
                actor=wanted.actor,
                stopped=stopped,
                as_of=as_of,
            )
        except refunds.CannotRefund as refused:
            raise CannotClose(f"not everything can be paid back now: {refused}") from refused
        paid_back_minor += refund.amount_minor
    return paid_back_minor


def _write_down(closure: AccountClosure, before: ledger.Standing, *, as_of: datetime) -> None:
    saw: dict[str, Any] = {
        **ledger.standing(closure.account_id, as_of=as_of).facts,
        "written_off_minor": closure.written_off_minor,
        "paid_back_minor": closure.paid_back_minor,
        "total_minor": closure.final_invoice.total_minor if closure.final_invoice else 0,
    }
    debt, credit = closure.get_debt_display(), closure.get_credit_display()
    _decide(
        "CLOSE_ACCOUNT",
        closure.account_id,
        because=f"{closure.because} (debt: {debt.lower()}; credit: {credit.lower()})",
        expected=before.facts,
        saw=saw,
        actor=closure.closed_by,
    )
    said = [f"Account closed: {closure.because}"]
    if closure.final_invoice is not None:
        said.append(f"final invoice {closure.final_invoice.number}")
    currency = before.currency
    if closure.written_off_minor:
        said.append(f"{money(closure.written_off_minor, currency)} written off")
    if closure.paid_back_minor:
        said.append(f"{money(closure.paid_back_minor, currency)} to be paid back")
    timeline.record(
        timeline.event(
            account_id=closure.account_id,
            kind="account.closed",
            summary="; ".join(said),
            actor=closure.closed_by,
            closure=closure.pk,
        )
    )


def _decide(
    act: str,
    account_id: int,
    *,
    because: str,
    saw: dict[str, Any],
    actor: str,
    expected: dict[str, Any] | None = None,
) -> None:
    decisions.record(
        decisions.decision(
            act=act,
            did=Decision.Did.DONE,
            because=because,
            account_id=account_id,
            expected=expected,
            saw=saw,
            actor=actor,
        )
    )
