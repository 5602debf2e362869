"""
What customers are told about their money, and whether it is still true just before it is sent.

Leaves: each writes a message in the caller's transaction, under the account's lock, and returns
it, or None if the fact is told already. Each states the balance, and the instant it was true at.

An account without an email address stops no money: what nobody could be told of stands on its
timeline. Only `invoices_issued` raises, because sending it is all its step does.
"""

import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from itertools import groupby
from operator import itemgetter
from typing import Any, TypeAlias

from django.conf import settings
from django.db.models import Q, Sum, prefetch_related_objects
from django.urls import reverse
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from accounts import timeline
from accounts.models import Account, Hold, PaymentMethod, TimelineEvent
from billing import decisions, ledger, locks
from billing.ledger import Standing
from billing.models import (
    Allocation,
    Decision,
    Invoice,
    LineItem,
    Payment,
    PaymentAttempt,
    PaymentReversal,
    Refund,
)
from billing.references import reference_of
from notifications import catalog, outbox
from notifications.catalog import Cancel, Keep, Rerender, Verdict
from notifications.formats import Reader
from notifications.models import Message
from notifications.outbox import Letter

INVOICE = "INVOICE"
RECEIPT = "RECEIPT"
PAYMENT_FAILED = "PAYMENT_FAILED"
CONFIRMATION_NEEDED = "CONFIRMATION_NEEDED"
CHARGE_ANNOUNCED = "CHARGE_ANNOUNCED"
PAYMENT_REVERSED = "PAYMENT_REVERSED"
REFUND_SENT = "REFUND_SENT"
REFUND_RETURNED = "REFUND_RETURNED"
HOLD_PLACED = "HOLD_PLACED"
HOLD_LIFTED = "HOLD_LIFTED"

# More do not help a reader of a mail; the invoice's page shows them all.
PRODUCTS_LISTED = 20


@dataclass(frozen=True)
class Bill:
    """An issued invoice, its locked account, and what that owes now."""

    invoice: Invoice
    account: Account
    due_minor: int


@dataclass(frozen=True)
class Receipt:
    """A payment, what it settled of which invoice, and what its locked account owes and has as credit now."""

    payment: Payment
    account: Account
    allocations: Sequence[tuple[Invoice, int]]
    due_minor: int
    credit_minor: int


# A message with its account, locked, and what that owes now.
Looked: TypeAlias = tuple[Message, Account, Standing]


def register() -> None:
    """Make our kinds known to the outbox, each with its recheck."""
    catalog.register(INVOICE, recheck=recheck_invoices)
    catalog.register(RECEIPT)
    catalog.register(PAYMENT_FAILED, recheck=_each(recheck_payment_failed))
    catalog.register(CONFIRMATION_NEEDED, recheck=_each(recheck_confirmation_needed))
    catalog.register(CHARGE_ANNOUNCED, recheck=_each(recheck_charge_announced))
    catalog.register(PAYMENT_REVERSED, recheck=_each(recheck_payment_reversed))
    catalog.register(REFUND_SENT)
    catalog.register(REFUND_RETURNED, recheck=_each(recheck_refund_returned))
    catalog.register(HOLD_PLACED, recheck=_each(recheck_hold_placed))
    catalog.register(HOLD_LIFTED, recheck=_each(recheck_hold_lifted))


# --- what is told


def invoices_issued(bills: Sequence[Bill], *, as_of: datetime) -> list[Message | None]:
    """
    Tell of invoices: what for, how much, what is due, and how it will be paid.

    :raises NoRecipient: if an account has no email address.
    """
    return outbox.enqueue_all(_invoices(bills, as_of=as_of))


def payments_received(receipts: Sequence[Receipt], *, as_of: datetime) -> list[Message | None]:
    """Send receipts: which invoices each paid, what it leaves as credit, what is still due."""
    prefetch_related_objects([receipt.account for receipt in receipts], "entity")
    return _tell_all([_receipt(receipt, as_of=as_of) for receipt in receipts])


def payment_failed(
    attempt: PaymentAttempt, *, account: Account, due_minor: int, as_of: datetime
) -> Message | None:
    """Tell that a card was declined, why in words, and what to do."""
    return _tell(_payment_failed(attempt, account=account, due_minor=due_minor, as_of=as_of))


def charge_announced(
    attempt: PaymentAttempt, *, account: Account, due_minor: int, as_of: datetime
) -> Message | None:
    """Tell what a direct debit will collect, and on which day, days before it does."""
    return _tell(_charge_announced(attempt, account=account, due_minor=due_minor, as_of=as_of))


def confirmation_needed(
    attempt: PaymentAttempt, *, account: Account, until: datetime, due_minor: int, as_of: datetime
) -> Message | None:
    """Tell that the bank wants the customer to confirm a payment, where, and until when."""
    reader = Reader.of(account)
    context = {
        "amount": reader.money(attempt.amount_minor, attempt.currency),
        "card": str(attempt.payment_method),
        "until": reader.instant(until),
        "confirm_link": attempt_link(attempt),
    }
    return _tell(
        _letter(
            CONFIRMATION_NEEDED,
            f"attempt:{attempt.pk}",
            context,
            account=account,
            due_minor=due_minor,
            as_of=as_of,
        )
    )


def was_asked_to_confirm(attempt: PaymentAttempt) -> bool:
    """Whether its customer has had a mail about this attempt already, which said what happens next."""
    return Message.objects.filter(kind=CONFIRMATION_NEEDED, fact=f"attempt:{attempt.pk}").exists()


def payment_reversed(
    reversal: PaymentReversal, *, account: Account, due_minor: int, as_of: datetime
) -> Message | None:
    """Tell that a payment went back, and what is owed now."""
    return _tell(_payment_reversed(reversal, account=account, due_minor=due_minor, as_of=as_of))


def refund_sent(
    refund: Refund, *, account: Account, due_minor: int, as_of: datetime
) -> Message | None:
    """Tell that money was paid back, and how."""
    return _tell(_refund(REFUND_SENT, refund, account=account, due_minor=due_minor, as_of=as_of))


def refund_returned(
    refund: Refund, *, account: Account, due_minor: int, as_of: datetime
) -> Message | None:
    """Tell that a refund came back to us, as far as it is their credit now."""
    return _tell(
        _refund(REFUND_RETURNED, refund, account=account, due_minor=due_minor, as_of=as_of)
    )


def hold_placed(hold: Hold, *, account: Account, due_minor: int, as_of: datetime) -> Message | None:
    """Tell that the account is on hold, and what lifts it."""
    return _tell(_hold_placed(hold, account=account, due_minor=due_minor, as_of=as_of))


def hold_lifted(hold: Hold, *, account: Account, due_minor: int, as_of: datetime) -> Message | None:
    """Tell that the hold is gone."""
    fact = f"hold:{hold.pk}:lifted"
    return _tell(_letter(HOLD_LIFTED, fact, {}, account=account, due_minor=due_minor, as_of=as_of))


def _tell(letter: Letter) -> Message | None:
    return _tell_all([letter])[0]


def _tell_all(letters: Sequence[Letter]) -> list[Message | None]:
    addressed = [letter for letter in letters if letter.account.email]
    timeline.record(*(_not_written(letter) for letter in letters if not letter.account.email))
    told = dict(zip(map(id, addressed), outbox.enqueue_all(addressed), strict=True))
    return [told.get(id(letter)) for letter in letters]


def _not_written(letter: Letter) -> TimelineEvent:
    return timeline.event(
        account_id=letter.account.pk,
        kind="message.not_written",
        summary=f"Nobody was told ({letter.kind}): the account has no email address",
        fact=letter.fact,
    )


# --- what each says


def _invoices(bills: Sequence[Bill], *, as_of: datetime) -> list[Letter]:
    ids = [bill.invoice.pk for bill in bills]
    settled, products = _settled_by(ids), _products(ids)
    cards = _cards_to_charge([bill.account.pk for bill in bills], as_of=as_of)
    prefetch_related_objects([bill.account for bill in bills], "entity")
    return [
        _invoice(
            bill,
            settled=settled.get(bill.invoice.pk, (0, 0)),
            products=products.get(bill.invoice.pk, []),
            card=cards.get(bill.account.pk),
            as_of=as_of,
        )
        for bill in bills
    ]


def _invoice(
    bill: Bill,
    *,
    settled: tuple[int, int],
    products: list[tuple[str, int]],
    card: PaymentMethod | None,
    as_of: datetime,
) -> Letter:
    invoice, account = bill.invoice, bill.account
    reader = Reader.of(account)
    credit_minor, paid_minor = settled
    left_minor = max(invoice.total_minor, 0) - credit_minor - paid_minor
    assert invoice.due_at is not None, "an issued invoice says when it is due"
    context = {
        "number": invoice.number,
        "period": reader.period(invoice.period.month),
        **_rows(products, currency=invoice.currency, reader=reader),
        "total": reader.money(invoice.total_minor, invoice.currency),
        "is_credit": invoice.total_minor < 0,
        "credit": reader.money(-credit_minor, invoice.currency) if credit_minor else "",
        "paid": reader.money(-paid_minor, invoice.currency) if paid_minor else "",
        "left": reader.money(left_minor, invoice.currency),
        "due_date": reader.date(invoice.due_at) if left_minor > 0 else "",
        "card": str(card) if card else "",
        "is_mandate": card.is_mandate if card else False,
        "bank_details": invoice.entity.bank_details,
        "reference": reference_of(account.pk),
    }
    fact = f"invoice:{invoice.pk}"
    return _letter(INVOICE, fact, context, account=account, due_minor=bill.due_minor, as_of=as_of)


def _settled_by(invoice_ids: Sequence[int]) -> dict[int, tuple[int, int]]:
    """By invoice: how much of it credit has settled, and how much payments."""
    sums = (
        Allocation.objects.filter(invoice__in=invoice_ids)
        .values_list("invoice")
        .annotate(
            credit=Sum("amount_minor", filter=Q(grant__isnull=False), default=0),
            paid=Sum("amount_minor", filter=Q(payment__isnull=False), default=0),
        )
    )
    return {invoice: (credit, paid) for invoice, credit, paid in sums}


def _products(invoice_ids: Sequence[int]) -> dict[int, list[tuple[str, int]]]:
    """By invoice: what each product came to, the greatest first."""
    sums = (
        LineItem.objects.filter(invoice__in=invoice_ids)
        .values_list("invoice", "product__name")
        .annotate(minor=Sum("amount_minor"))
        .order_by("invoice", "-minor", "product__name")
    )
    return {
        invoice: [(name, minor) for _invoice, name, minor in rows]
        for invoice, rows in groupby(sums, key=itemgetter(0))
    }


def _rows(products: list[tuple[str, int]], *, currency: str, reader: Reader) -> dict[str, Any]:
    listed, more = products[:PRODUCTS_LISTED], products[PRODUCTS_LISTED:]
    return {
        "products": [
            {"name": name, "amount": reader.money(minor, currency)} for name, minor in listed
        ],
        "more_count": len(more),
        "more_amount": reader.money(sum(minor for _, minor in more), currency) if more else "",
    }


def _cards_to_charge(account_ids: Sequence[int], *, as_of: datetime) -> dict[int, PaymentMethod]:
    """By account: the card or mandate the close will charge, if there is one that can be."""
    cards = PaymentMethod.objects.default_of(account_ids)
    return {card.account_id: card for card in cards if not card.has_expired(as_of)}


def _receipt(receipt: Receipt, *, as_of: datetime) -> Letter:
    payment, reader = receipt.payment, Reader.of(receipt.account)
    surplus_minor = payment.amount_minor - sum(minor for _invoice, minor in receipt.allocations)
    credit_minor = receipt.credit_minor
    context = {
        "amount": reader.money(payment.amount_minor, payment.currency),
        "method": payment.method,
        "received_at": reader.instant(payment.received_at),
        "paid": [
            {"number": invoice.number, "amount": reader.money(minor, payment.currency)}
            for invoice, minor in receipt.allocations
        ],
        "surplus": reader.money(surplus_minor, payment.currency) if surplus_minor > 0 else "",
        "credit": reader.money(credit_minor, payment.currency) if credit_minor > 0 else "",
    }
    return _letter(
        RECEIPT,
        f"payment:{payment.pk}",
        context,
        account=receipt.account,
        due_minor=receipt.due_minor,
        as_of=as_of,
    )


def _payment_failed(
    attempt: PaymentAttempt, *, account: Account, due_minor: int, as_of: datetime
) -> Letter:
    reader = Reader.of(account)
    reason, advice = decline_in_words(attempt)
    case = attempt.case if attempt.case and attempt.case.closed_at is None else None
    next_try_at = case.next_try_at if case else None
    context = {
        "amount": reader.money(attempt.amount_minor, attempt.currency),
        "card": str(attempt.payment_method),
        "is_mandate": attempt.payment_method.is_mandate,
        "reason": reason,
        "advice": advice,
        "next_try": reader.date(next_try_at) if next_try_at else "",
        "held_on": reader.date(case.ends_at) if case else "",
    }
    fact = f"attempt:{attempt.pk}"
    return _letter(PAYMENT_FAILED, fact, context, account=account, due_minor=due_minor, as_of=as_of)


def _charge_announced(
    attempt: PaymentAttempt, *, account: Account, due_minor: int, as_of: datetime
) -> Letter:
    assert attempt.charge_date is not None, f"{attempt} is charged at once"
    reader = Reader.of(account)
    context = {
        "amount": reader.money(attempt.amount_minor, attempt.currency),
        "card": str(attempt.payment_method),
        "charge_date": reader.day(attempt.charge_date),
    }
    fact = f"attempt:{attempt.pk}"
    return _letter(
        CHARGE_ANNOUNCED, fact, context, account=account, due_minor=due_minor, as_of=as_of
    )


def _payment_reversed(
    reversal: PaymentReversal, *, account: Account, due_minor: int, as_of: datetime
) -> Letter:
    payment, reader = reversal.payment, Reader.of(account)
    context = {
        "amount": reader.money(reversal.amount_minor, payment.currency),
        "method": payment.method,
        "paid_on": reader.date(payment.received_at),
    }
    fact = f"reversal:{reversal.pk}"
    return _letter(
        PAYMENT_REVERSED, fact, context, account=account, due_minor=due_minor, as_of=as_of
    )


def _refund(
    kind: str, refund: Refund, *, account: Account, due_minor: int, as_of: datetime
) -> Letter:
    payment, reader = refund.payment, Reader.of(account)
    context = {
        "amount": reader.money(refund.amount_minor - refund.lost_minor, refund.currency),
        "method": payment.method,
        "paid_on": reader.date(payment.received_at),
    }
    fact = f"refund:{refund.pk}:{'sent' if kind == REFUND_SENT else 'returned'}"
    return _letter(kind, fact, context, account=account, due_minor=due_minor, as_of=as_of)


def _hold_placed(hold: Hold, *, account: Account, due_minor: int, as_of: datetime) -> Letter:
    context = {"is_overdue": hold.reason == Hold.Reason.OVERDUE}
    fact = f"hold:{hold.pk}:placed"
    return _letter(HOLD_PLACED, fact, context, account=account, due_minor=due_minor, as_of=as_of)


def _letter(
    kind: str,
    fact: str,
    context: dict[str, Any],
    *,
    account: Account,
    due_minor: int,
    as_of: datetime,
) -> Letter:
    reader = Reader.of(account)
    balance = {
        "has_due": due_minor > 0,
        "balance": reader.money(due_minor, account.currency),
        "as_of": reader.instant(as_of),
        "pay_link": pay_link(account),
    }
    return Letter(
        account=account,
        kind=kind,
        fact=fact,
        context={**context, **balance},
        amounts={"due_minor": due_minor, "currency": account.currency},
        as_of=as_of,
    )


def pay_link(account: Account) -> str:
    """Where the customer sees the balance and pays it. Never made from a request's Host header."""
    return f"{settings.SITE_URL}{reverse('account', args=[account.pk])}"


def attempt_link(attempt: PaymentAttempt) -> str:
    """Where the customer sees how one payment stands, and confirms it with their bank."""
    return f"{settings.SITE_URL}{reverse('attempt', args=[attempt.account_id, attempt.pk])}"


# --- why a card was declined, and what helps

_CHECK_FUNDS = _("Please make sure that the card has enough funds, or pay with another card.")
_OTHER_CARD = _("Please add another card, or pay with one.")
_ASK_BANK = _("Please ask your bank about it, or pay with another card.")
_CHECK_DETAILS = _("Please enter the card's details again, or pay with another card.")
_CONFIRM = _("Please sign in and pay; your bank will ask you to confirm it.")
_TRY_AGAIN = _("Please try again and confirm it, or pay with another card.")
_LATER = _("Please try again later, or pay with another card.")

DECLINED = (_("The bank declined the card."), _ASK_BANK)

# By the provider's code. Lost, stolen and suspected cards are told as "declined": the holder of a
# stolen card must not learn more from us than from the bank.
DECLINES: dict[str, tuple[Promise | str, Promise | str]] = {
    "insufficient_funds": (_("The card did not have enough funds."), _CHECK_FUNDS),
    "card_velocity_exceeded": (_("The card is over its limit."), _CHECK_FUNDS),
    "withdrawal_count_limit_exceeded": (_("The card is over its limit."), _CHECK_FUNDS),
    "expired_card": (_("The card has expired."), _OTHER_CARD),
    "payment_method_missing": (_("The card was removed."), _OTHER_CARD),
    "invalid_account": (_("The card's account no longer exists."), _OTHER_CARD),
    "card_not_supported": (_("The card cannot be used for this kind of payment."), _OTHER_CARD),
    "currency_not_supported": (_("The card cannot pay in this currency."), _OTHER_CARD),
    "incorrect_number": (_("The card's details are not right."), _CHECK_DETAILS),
    "incorrect_cvc": (_("The card's details are not right."), _CHECK_DETAILS),
    "invalid_cvc": (_("The card's details are not right."), _CHECK_DETAILS),
    "authentication_required": (_("Your bank wants you to confirm the payment."), _CONFIRM),
    "payment_intent_authentication_failure": (
        _("The payment was not confirmed with your bank."),
        _TRY_AGAIN,
    ),
    "processing_error": (_("The bank could not process the payment."), _LATER),
    "issuer_not_available": (_("The bank could not be reached."), _LATER),
    "try_again_later": (_("The bank could not process the payment."), _LATER),
}


DEBIT_DECLINED = (
    _("The bank did not pay."),
    _("Please ask your bank about it, or pay with a card."),
)
_OTHER_MANDATE = _("Please set up another direct debit, or pay with a card.")

# The same for direct debits, where a card's words would be wrong.
DEBIT_DECLINES: dict[str, tuple[Promise | str, Promise | str]] = {
    "insufficient_funds": (
        _("The bank account did not have enough money."),
        _("Please make sure that it has, or pay with a card."),
    ),
    "mandate_cancelled": (_("The direct debit mandate was withdrawn."), _OTHER_MANDATE),
    "mandate_expired": (_("The direct debit mandate has expired."), _OTHER_MANDATE),
    "payment_method_missing": (_("The direct debit was removed."), _OTHER_MANDATE),
    "returned_by_bank": (_("The bank has taken the payment back."), _OTHER_MANDATE),
}


def decline_in_words(attempt: PaymentAttempt) -> tuple[Promise | str, Promise | str]:
    """Why an attempt was declined, and what helps, for the customer."""
    if attempt.payment_method.is_mandate:
        return DEBIT_DECLINES.get(attempt.decline_code, DEBIT_DECLINED)
    return DECLINES.get(attempt.decline_code, DECLINED)


# --- whether it is still true


def recheck_invoices(messages: Sequence[Message], as_of: datetime) -> list[Verdict]:
    """Settled by a payment: the receipt tells it. Another balance: the mail says that one."""
    looked = _look(messages, as_of=as_of)
    paid = _paid_by_a_payment(_invoice_of(m) for m in messages if _stated(m) > 0)
    anew = _invoices_anew(
        [each for each in looked if _invoice_of(each[0]) not in paid], as_of=as_of
    )
    verdicts: list[Verdict] = []
    for message, _account, standing in looked:
        if _stated(message) > 0 and _invoice_of(message) in paid:
            because = "settled meanwhile: the receipt tells it"
            verdicts.append(_cancel(message, standing, because=because))
        else:
            verdicts.append(
                _keep_or_rerender(message, standing, partial(anew.__getitem__, message.pk))
            )
    return verdicts


def _invoices_anew(looked: Sequence[Looked], *, as_of: datetime) -> dict[uuid.UUID, Letter]:
    """By message: what those would say now that state another balance."""
    changed = [each for each in looked if each[2].due_minor != _stated(each[0])]
    if not changed:
        return {}
    invoices = Invoice.objects.select_related("period", "entity").in_bulk(
        [_invoice_of(message) for message, *_ in changed]
    )
    bills = [
        Bill(invoices[_invoice_of(message)], account, standing.due_minor)
        for message, account, standing in changed
    ]
    letters = _invoices(bills, as_of=as_of)
    return {message.pk: letter for (message, *_), letter in zip(changed, letters, strict=True)}


def _invoice_of(message: Message) -> int:
    return int(_subject(message))


def recheck_payment_failed(looked: Looked, as_of: datetime) -> Verdict:
    """Nothing is due any more: there is nothing to be done about it."""
    message, account, standing = looked
    attempt = PaymentAttempt.objects.get(pk=uuid.UUID(_subject(message)))
    if standing.due_minor <= 0:
        return _cancel(message, standing, because="settled meanwhile", attempt=attempt)
    return _keep_or_rerender(
        message,
        standing,
        lambda: _payment_failed(
            attempt, account=account, due_minor=standing.due_minor, as_of=as_of
        ),
        attempt=attempt,
    )


def recheck_charge_announced(looked: Looked, as_of: datetime) -> Verdict:
    """Given up, or handed to the bank already: an announcement would not be true, or late."""
    message, account, standing = looked
    attempt = PaymentAttempt.objects.get(pk=uuid.UUID(_subject(message)))
    if attempt.state not in {PaymentAttempt.State.RESERVED, PaymentAttempt.State.PREPARED}:
        because = "not collected on that day" if not attempt.submitted_at else "collected already"
        return _cancel(message, standing, because=because, attempt=attempt)
    return _keep_or_rerender(
        message,
        standing,
        lambda: _charge_announced(
            attempt, account=account, due_minor=standing.due_minor, as_of=as_of
        ),
        attempt=attempt,
    )


def recheck_confirmation_needed(looked: Looked, as_of: datetime) -> Verdict:
    """Confirmed, or given up: there is nothing to confirm any more."""
    message, _account, standing = looked
    attempt = PaymentAttempt.objects.get(pk=uuid.UUID(_subject(message)))
    if attempt.state != PaymentAttempt.State.REQUIRES_ACTION:
        because = "there is nothing to confirm any more"
        return _cancel(message, standing, because=because, attempt=attempt)
    return Keep()


def recheck_payment_reversed(looked: Looked, as_of: datetime) -> Verdict:
    """The payment stays gone, whatever was paid since: only the balance may be another."""
    message, account, standing = looked
    reversal = PaymentReversal.objects.select_related("payment").get(pk=int(_subject(message)))
    return _keep_or_rerender(
        message,
        standing,
        lambda: _payment_reversed(
            reversal, account=account, due_minor=standing.due_minor, as_of=as_of
        ),
    )


def recheck_refund_returned(looked: Looked, as_of: datetime) -> Verdict:
    """It stays sent back: only the balance may be another."""
    message, account, standing = looked
    refund = Refund.objects.select_related("payment").get(pk=uuid.UUID(_subject(message)))
    return _keep_or_rerender(
        message,
        standing,
        lambda: _refund(
            REFUND_RETURNED, refund, account=account, due_minor=standing.due_minor, as_of=as_of
        ),
    )


def recheck_hold_placed(looked: Looked, as_of: datetime) -> Verdict:
    """Lifted again: there is no hold to tell of."""
    message, account, standing = looked
    hold = Hold.objects.get(pk=int(_subject(message)))
    if hold.lifted_at is not None:
        return _cancel(message, standing, because="the hold was lifted meanwhile", hold=hold)
    return _keep_or_rerender(
        message,
        standing,
        lambda: _hold_placed(hold, account=account, due_minor=standing.due_minor, as_of=as_of),
        hold=hold,
    )


def recheck_hold_lifted(looked: Looked, as_of: datetime) -> Verdict:
    """They were never told of the hold: its end would only puzzle them."""
    message, _account, _standing = looked
    placed = message.fact.replace(":lifted", ":placed")
    if Message.objects.filter(
        kind=HOLD_PLACED, fact=placed, state=Message.State.CANCELLED
    ).exists():
        return Cancel("they were never told of the hold")
    return Keep()


def _look(messages: Sequence[Message], *, as_of: datetime) -> list[Looked]:
    """Each message with its account, locked, and what that owes now."""
    accounts = locks.accounts_for_update({message.account_id for message in messages})
    standings = ledger.standings(accounts, as_of=as_of)
    return [(m, accounts[m.account_id], standings[m.account_id]) for m in messages]


def _each(judge: Callable[[Looked, datetime], Verdict]) -> catalog.Recheck:
    """A recheck of many that are rarely many: their accounts are locked at once, each is judged by itself."""

    def recheck(messages: Sequence[Message], as_of: datetime) -> list[Verdict]:
        return [judge(looked, as_of) for looked in _look(messages, as_of=as_of)]

    return recheck


def _subject(message: Message) -> str:
    """The key in a fact: "17" of "hold:17:placed"."""
    return message.fact.split(":")[1]


def _stated(message: Message) -> int:
    return int(message.amounts["due_minor"])


def _paid_by_a_payment(invoice_ids: Iterable[int]) -> set[int]:
    """Those of the invoices that are settled, by a payment at least in part."""
    settled = Invoice.objects.filter(pk__in=[*invoice_ids], settled_at__isnull=False)
    return set(settled.filter(allocations__payment__isnull=False).values_list("pk", flat=True))


def _cancel(message: Message, standing: Standing, *, because: str, **links: Any) -> Cancel:
    _decide(message, standing, did=Decision.Did.SKIPPED, because=because, **links)
    return Cancel(because)


def _keep_or_rerender(
    message: Message, standing: Standing, again: Callable[[], Letter], **links: Any
) -> Verdict:
    if standing.due_minor == _stated(message):
        return Keep()
    because = "the balance had changed: rendered anew"
    _decide(message, standing, did=Decision.Did.DONE, because=because, **links)
    return Rerender(outbox.render(again()), because)


def _decide(message: Message, standing: Standing, *, did: str, because: str, **links: Any) -> None:
    decisions.record(
        decisions.decision(
            act="EMAIL",
            did=did,
            because=because,
            account_id=message.account_id,
            expected={
                **message.amounts,
                "as_of": message.as_of.isoformat(),
                "message": f"{message.kind} {message.fact}",
            },
            saw=standing.facts,
            world_changed=True,
            **links,
        )
    )
