"""Issue the invoice of every account that used something."""

from collections.abc import Iterator

from accounts.models import PaymentMethod
from billing import ledger, step_kinds, unbillable
from billing.close.step import Chunk, Outcome, blocked, done, skipped
from billing.invoices import drafting, issuing
from billing.models import AccountClosure
from billing.step_kinds import Through
from billing.workers import doorbell

kind = step_kinds.INVOICE
title = "Invoice"
follows = None
queue = doorbell.DEFAULT
touches_the_world = False
is_per_run = False
through = Through.NOBODY
counts_for_time_left = True
batch = 200


def perform(chunk: Chunk) -> Iterator[Outcome]:
    """Draft from the summaries, issue, apply credit; say what is due, for the charge to expect."""
    closed = set(AccountClosure.objects.standing(chunk.accounts).values_list("account", flat=True))
    cannot = {pk: why for pk, account in chunk.accounts.items() if (why := unbillable.why(account))}
    left_out = closed | set(cannot)
    billed = [account for pk, account in chunk.accounts.items() if pk not in left_out]
    drafted = drafting.draft_invoices(billed, month=chunk.run.month)
    issuing.issue_invoices(
        list(drafted.invoices.values()), accounts=chunk.accounts, as_of=chunk.as_of
    )
    standings = ledger.standings(chunk.accounts, as_of=chunk.as_of)
    with_card = set(
        PaymentMethod.objects.default_of(chunk.accounts).values_list("account", flat=True)
    )
    for step in chunk.steps:
        account = chunk.account_of(step)
        facts = {**standings[account.pk].facts, "has_card": account.pk in with_card}
        if account.pk in closed:
            because = "the account was closed meanwhile, with its final invoice"
            yield skipped(step, because, saw=facts, expect=facts, world_changed=True)
        elif account.pk in cannot:
            yield blocked(step, f"{cannot[account.pk]}, then retry this step", saw=facts)
        elif account.pk in drafted.unpriced:
            yield blocked(step, str(drafted.unpriced[account.pk]), saw=facts)
        elif account.pk in drafted.invoices:
            invoice = drafted.invoices[account.pk]
            yield done(
                step,
                f"issued {invoice.number}",
                saw={**facts, "total_minor": invoice.total_minor},
                expect={**facts, "invoice": invoice.pk},
            )
        else:
            yield skipped(step, "no usage to bill", saw=facts, expect=facts)
