"""The request to confirm a payment with the bank."""

from collections.abc import Sequence
from datetime import datetime
from functools import partial

from accounts.models import Account
from billing.charge_protocol import FAULT_OF_OURS
from billing.messages.attempts import attempt_of, attempts_of
from billing.messages.letters import attempt_link, compose, tell
from billing.messages.payment_failed import payment_failed
from billing.messages.prospects import confirm_until, stops
from billing.messages.rechecks import cancel, keep_or_rerender, look, look_ahead
from billing.models import PaymentAttempt
from notifications.catalog import Verdict
from notifications.formats import Reader
from notifications.models import Message
from notifications.outbox import Letter

CONFIRMATION_NEEDED = "CONFIRMATION_NEEDED"


def confirmation_needed(
    attempt: PaymentAttempt, *, account: Account, until: datetime, due_minor: int, as_of: datetime
) -> Message | None:
    """Ask the customer to confirm a payment with the bank: where, and until when."""
    return tell(
        _confirmation_needed(
            attempt, account=account, until=until, due_minor=due_minor, as_of=as_of
        )
    )


def _confirmation_needed(
    attempt: PaymentAttempt,
    *,
    account: Account,
    until: datetime,
    due_minor: int,
    as_of: datetime,
    is_closed: bool = False,
) -> Letter:
    reader = Reader.of(account)
    context = {
        "amount": reader.money(attempt.amount_minor, attempt.currency),
        "card": str(attempt.payment_method),
        "until": reader.instant(until),
        "confirm_link": attempt_link(attempt),
        "waits_for_provider": is_closed,
    }
    fact = f"attempt:{attempt.pk}"
    return compose(
        CONFIRMATION_NEEDED, fact, context, account=account, due_minor=due_minor, as_of=as_of
    )


def was_asked_to_confirm(attempt: PaymentAttempt) -> bool:
    """Whether the customer has this mail about the attempt, or is about to. It says what happens next."""
    asked = Message.objects.filter(kind=CONFIRMATION_NEEDED, fact=f"attempt:{attempt.pk}")
    return asked.exclude(state__in=[Message.State.CANCELLED, Message.State.DEAD]).exists()


def recheck_confirmation_needed(messages: Sequence[Message], as_of: datetime) -> list[Verdict]:
    """Cancel it once the payment was confirmed or given up, or will be given up whatever they do."""
    looked = look(messages, as_of=as_of)
    attempts, ahead = attempts_of(messages), look_ahead(looked, as_of=as_of)
    verdicts: list[Verdict] = []
    for message, account, standing in looked:
        attempt, prospect = attempt_of(message, attempts), ahead[account.pk]
        if attempt.state != PaymentAttempt.State.REQUIRES_ACTION:
            because: str | None = "there is nothing to confirm any more"
        else:
            because = stops(attempt, prospect)
        if because is not None:
            verdicts.append(cancel(message, standing, because=because, attempt=attempt))
            if _failed_unheard(attempt) and standing.due_minor > 0:
                payment_failed(attempt, account=account, due_minor=standing.due_minor, as_of=as_of)
            continue
        again = partial(
            _confirmation_needed,
            attempt,
            account=account,
            until=confirm_until(attempt),
            due_minor=standing.due_minor,
            as_of=as_of,
            is_closed=attempt.gateway in prospect.closed,
        )
        verdicts.append(keep_or_rerender(message, standing, again, attempt=attempt))
    return verdicts


def _failed_unheard(attempt: PaymentAttempt) -> bool:
    """Whether it has failed without a word, because this mail was to say what happens next."""
    is_ours = attempt.decline_class in FAULT_OF_OURS
    return attempt.state == PaymentAttempt.State.FAILED and not is_ours
