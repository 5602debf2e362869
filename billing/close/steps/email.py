"""Send each invoice, saying the balance as of the moment it is sent."""

from collections.abc import Collection, Iterator, Sequence
from datetime import timedelta
from uuid import UUID

from django.db import transaction

from billing import ledger, locks, messages, step_kinds
from billing.close.step import Chunk, Outcome, blocked, done, later, skipped
from billing.ledger import Standing
from billing.messages import Bill
from billing.models import Invoice, Payment, Step
from billing.step_kinds import Through
from billing.workers import doorbell
from notifications import delivery
from notifications.models import Message

kind = step_kinds.EMAIL
title = "Email"
follows = step_kinds.INVOICE
queue = doorbell.EMAIL
touches_the_world = True
is_per_run = False
through = Through.MAIL_SERVER
counts_for_time_left = True
batch = delivery.batch

LOOK_AGAIN_AFTER = timedelta(seconds=5)
# A server may put a message off for a day or two. After so many tries, an hour or less, the month does not wait.
TRIES_IN_THE_RUN = 8


def perform(chunk: Chunk) -> Iterator[Outcome]:
    """Write the messages that are still true, deliver them, and say what became of each."""
    skips, written = _write(chunk)
    delivery.deliver(as_of=chunk.as_of, message_ids=list(written.values()))
    became = _became(written.values())
    yield from skips
    for step in chunk.steps:
        if step.pk in written:
            yield _sent(chunk, step, became[written[step.pk]])


@transaction.atomic(durable=True)
def _write(chunk: Chunk) -> tuple[list[Outcome], dict[int, UUID]]:
    """The steps that have nothing to tell; and by step, the message that those write which have."""
    accounts = locks.accounts_for_update(chunk.accounts)
    standings = ledger.standings(accounts, as_of=chunk.as_of)
    invoices = _invoices(chunk.steps)
    paid = _paid_meanwhile(chunk.steps, invoices)
    skips: list[Outcome] = []
    bills: dict[int, Bill] = {}
    for step in chunk.steps:
        account = accounts[chunk.account_of(step).pk]
        standing = standings[account.pk]
        invoice = invoices.get(step.expected.get("invoice", 0))
        if invoice is None:
            skips.append(skipped(step, "no invoice this month", saw=standing.facts))
        elif payment := paid.get(invoice.pk):
            skips.append(_told_by_the_receipt(step, payment, standing))
        elif not account.email:
            skips.append(skipped(step, "the account has no email address"))
        else:
            bills[step.pk] = Bill(invoice, account, standing.due_minor)
    return skips, dict(zip(bills, _messages(list(bills.values()), chunk), strict=True))


def _invoices(steps: Sequence[Step]) -> dict[int, Invoice]:
    expected = [step.expected["invoice"] for step in steps if "invoice" in step.expected]
    return Invoice.objects.select_related("period", "entity").in_bulk(expected)


def _paid_meanwhile(steps: Sequence[Step], invoices: dict[int, Invoice]) -> dict[int, Payment]:
    """By invoice: the payment, which has its own receipt, that has settled it since it was issued as due."""
    was_due = {s.expected.get("invoice") for s in steps if s.expected.get("due_minor", 0) > 0}
    settled = [pk for pk, invoice in invoices.items() if invoice.settled_at and pk in was_due]
    if not settled:
        return {}
    paid = Payment.objects.filter(allocations__invoice__in=settled).select_related("attempt")
    allocated = list(paid.order_by("pk").values_list("allocations__invoice", "pk"))
    payments = paid.in_bulk(pk for _invoice, pk in allocated)
    return {invoice: payments[pk] for invoice, pk in allocated}


def _told_by_the_receipt(step: Step, payment: Payment, standing: Standing) -> Outcome:
    return skipped(
        step,
        "settled meanwhile: the receipt tells it",
        saw=standing.facts,
        # This run's own charge is what the month is for; anybody else's payment is news.
        world_changed=payment.attempt is None or payment.attempt.run_id != step.run_id,
    )


def _messages(bills: Sequence[Bill], chunk: Chunk) -> list[UUID]:
    """The message of each, written now, or before us by a worker that was killed."""
    written = messages.invoices_issued(bills, as_of=chunk.as_of)
    facts = [f"invoice:{bill.invoice.pk}" for bill in bills]
    lacking = [fact for fact, message in zip(facts, written, strict=True) if message is None]
    standing = Message.objects.filter(kind=messages.INVOICE, fact__in=lacking)
    before = dict(standing.values_list("fact", "pk")) if lacking else {}
    return [
        message.pk if message else before[fact]
        for fact, message in zip(facts, written, strict=True)
    ]


def _became(ids: Collection[UUID]) -> dict[UUID, Message]:
    """What became of them, without what they say."""
    said = ("subject", "body_text", "body_html")
    return Message.objects.defer(*said).in_bulk(list(ids))


def _sent(chunk: Chunk, step: Step, message: Message) -> Outcome:
    match message.state:
        case Message.State.SENT:
            return done(step, f"sent to {message.recipient}", saw=message.amounts)
        case Message.State.CANCELLED:
            return skipped(step, message.because, saw=message.amounts, world_changed=True)
        case Message.State.DEAD:
            return blocked(step, f"not deliverable: {message.last_error}")
        case _ if message.parked_at is not None:
            return blocked(step, "its message has killed three workers: retry that, then this")
        case _ if message.attempts >= TRIES_IN_THE_RUN:
            because = f"put off by the mail server, and tried on for a day: {message.last_error}"
            return skipped(step, because[:300], saw=message.amounts)
        case _:
            return later(
                step,
                "not delivered yet",
                run_at=max(message.next_attempt_at, chunk.as_of + LOOK_AGAIN_AFTER),
            )
