"""Send each invoice, saying the balance as of the moment it is sent."""

from collections.abc import Iterator
from datetime import timedelta

from django.db import transaction

from accounts.models import Account
from billing import ledger, locks, messages
from billing.close.step import Chunk, Outcome, blocked, done, later, skipped
from billing.models import Invoice, Payment, Step
from notifications import delivery, outbox
from notifications.models import Message

kind = Step.Kind.EMAIL
follows = Step.Kind.INVOICE
lane = "email"
batch = 50
touches_the_world = True

LOOK_AGAIN_AFTER = timedelta(seconds=5)


def perform(chunk: Chunk) -> Iterator[Outcome]:
    """Write the messages that are still true, deliver them, and say what became of each."""
    decided = {step.pk: _write(chunk, step) for step in chunk.steps}
    written = {pk: message.pk for pk, message in decided.items() if isinstance(message, Message)}
    delivery.deliver(as_of=chunk.as_of, message_ids=list(written.values()))
    now = Message.objects.in_bulk(list(written.values()))
    for step in chunk.steps:
        outcome = decided[step.pk]
        yield outcome if isinstance(outcome, Outcome) else _sent(chunk, step, now[outcome.pk])


@transaction.atomic(durable=True)
def _write(chunk: Chunk, step: Step) -> Message | Outcome:
    account = locks.account_for_update(chunk.account_of(step).pk)
    standing = ledger.standing(account.pk, as_of=chunk.as_of)
    invoice = Invoice.objects.filter(pk=step.expected.get("invoice")).first()
    if invoice is None:
        return skipped(step, "no invoice this month", saw=standing.facts)
    if (payment := _paid_meanwhile(invoice, step)) is not None:
        return skipped(
            step,
            "settled meanwhile: the receipt tells it",
            saw=standing.facts,
            # This run's own charge is what the month is for; anybody else's payment is news.
            world_changed=payment.attempt is None or payment.attempt.run_id != step.run_id,
        )
    return _message(invoice, account=account, due_minor=standing.due_minor, chunk=chunk, step=step)


def _paid_meanwhile(invoice: Invoice, step: Step) -> Payment | None:
    """The payment, which has its own receipt, that has settled the invoice since it was issued as due."""
    if step.expected.get("due_minor", 0) <= 0 or invoice.settled_at is None:
        return None
    paid = Payment.objects.filter(allocations__invoice=invoice).select_related("attempt")
    return paid.order_by("-pk").first()


def _message(
    invoice: Invoice, *, account: Account, due_minor: int, chunk: Chunk, step: Step
) -> Message | Outcome:
    try:
        written = messages.invoice_issued(
            invoice, account=account, due_minor=due_minor, as_of=chunk.as_of
        )
    except outbox.NoRecipient:
        return skipped(step, "the account has no email address")
    # None: a killed worker wrote it before us.
    return written or Message.objects.get(kind="INVOICE", fact=f"invoice:{invoice.pk}")


def _sent(chunk: Chunk, step: Step, message: Message) -> Outcome:
    match message.state:
        case Message.State.SENT:
            return done(step, f"sent to {message.recipient}", saw=message.amounts)
        case Message.State.CANCELLED:
            return skipped(step, message.because, saw=message.amounts, world_changed=True)
        case Message.State.DEAD:
            return blocked(step, f"not deliverable: {message.last_error}")
        case _:
            return later(
                step,
                "not delivered yet",
                run_at=max(message.next_attempt_at, chunk.as_of + LOOK_AGAIN_AFTER),
            )
