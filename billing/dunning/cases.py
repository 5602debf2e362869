"""Cases of declined automatic charges: opened, noted, tried again soon, closed."""

from datetime import datetime, timedelta

from accounts.models import RETRIES_MAX, Account, PaymentMethod
from billing import charge_protocol, messages, step_kinds
from billing.gateways import declines
from billing.ledger import Standing
from billing.models import AccountClosure, DunningCase, PaymentAttempt, Step

# What the provider says where the bank has asked the customer, who did not say yes.
REFUSED_AT_THE_BANK = "payment_intent_authentication_failure"
# With such a card, a customer who was asked to confirm a payment no longer can.
CARD_IS_GONE = ("payment_method_missing", declines.GONE_AT_THE_PROVIDER, "expired_card")


def note_failure(
    attempt: PaymentAttempt, *, account: Account, standing: Standing
) -> DunningCase | None:
    """
    Open a case for a declined automatic charge of a (locked) account, or note it in the open one.

    Returns None where there is nothing to follow up: the customer was on the site, nothing is due any
    more, the account is closed, the entity retries nothing and the close itself holds, or the fault is ours. What
    the customer refuses at the bank while the close has still to charge them is its answer as well.
    """
    if standing.due_minor <= 0:
        return None
    if AccountClosure.objects.standing([account.pk]).exists():
        return None
    case = open_case(account.pk)
    days = account.entity.retry_days
    if attempt.kind == PaymentAttempt.Kind.ON_SESSION:
        if case is not None:
            _go_on_at_its_day(case, attempt, days, as_of=standing.as_of)
            return None
        if not _is_answer_to_the_close(attempt):
            return None
    if case is not None:
        case.retries_made = min(case.retries_made + 1, RETRIES_MAX)
    elif (
        days or attempt.charge_date or attempt.decline_code == declines.GONE_AT_THE_PROVIDER
    ) and attempt.decline_class not in charge_protocol.FAULT_OF_OURS:
        # A debit is declined after the close, which would hold; who has lost a card has just been told.
        case = _opened(account, as_of=standing.as_of)
    else:
        return None
    case.decline_class = attempt.decline_class
    case.decline_code = attempt.decline_code
    case.next_try_at = _next_try(case, attempt, days, as_of=standing.as_of)
    case.save()
    return case


def wait_for_a_card(account: Account, *, as_of: datetime) -> DunningCase:
    """
    Open a case for a (locked) account whose card is gone at its provider: it is told, and waited for.

    At the end of the schedule it is held, if it is overdue then; another card is charged at once.
    """
    case = _opened(account, as_of=as_of)
    case.decline_code = declines.GONE_AT_THE_PROVIDER
    case.decline_class = declines.decline_class(case.decline_code)
    case.save()
    return case


def _opened(account: Account, *, as_of: datetime) -> DunningCase:
    """Not saved yet. Without a schedule its end comes a day later."""
    days = account.entity.retry_days
    ends_at = as_of + timedelta(days=days[-1] if days else 1)
    return DunningCase(account=account, opened_at=as_of, ends_at=ends_at)


def open_case(account_id: int) -> DunningCase | None:
    """The account's open case, if it has one. To act on it, hold the account's lock."""
    return DunningCase.objects.filter(account=account_id, closed_at=None).first()


def is_news(attempt: PaymentAttempt, *, as_of: datetime) -> bool:
    """
    Whether to tell the customer of a decline: no earlier one of its case said the same.

    The last decline of a case is not told where the hold follows at once: that has a message of its own.
    """
    case = attempt.case
    if case is None:
        return True
    if attempt.decline_code not in CARD_IS_GONE and messages.was_asked_to_confirm(attempt):
        return False
    told = case.attempts.filter(decline_code=attempt.decline_code).exclude(pk=attempt.pk)
    holds_at_once = case.account.entity.grace_days is None
    is_last = case.next_try_at is None and case.ends_at <= as_of and holds_at_once
    return not is_last and not told.exists()


def _is_answer_to_the_close(attempt: PaymentAttempt) -> bool:
    """Whether the customer refused a payment of theirs at the bank that the close was about to ask them for too."""
    to_charge = Step.objects.filter(
        account=attempt.account_id, kind=step_kinds.CHARGE, state__in=Step.OPEN
    )
    return attempt.decline_code == REFUSED_AT_THE_BANK and to_charge.exists()


def _go_on_at_its_day(
    case: DunningCase, attempt: PaymentAttempt, days: list[int], *, as_of: datetime
) -> None:
    """The card was tried just now, by its holder: not again in seconds, but on the schedule's next day."""
    if case.next_try_at is None or _has_another_card(attempt):
        return
    case.next_try_at = _next_day(case, days, as_of=as_of)
    case.save(update_fields=["next_try_at"])


def try_again_soon(account_id: int, *, as_of: datetime) -> None:
    """Retry the account's case at once: its card was replaced or renewed."""
    DunningCase.objects.filter(
        account=account_id, closed_at=None, retries_made__lt=RETRIES_MAX
    ).update(next_try_at=as_of)


def try_later(account_id: int, *, at: datetime, as_of: datetime) -> None:
    """
    Try no sooner than this, in the case that is open, if it waits for a try: the last came to nothing by our fault.

    What is due already stays so: another card was chosen, or renewed, while that try was on its way.
    """
    DunningCase.objects.filter(
        account=account_id, closed_at=None, next_try_at__gt=as_of, next_try_at__lt=at
    ).update(next_try_at=at)


def is_tried_at_once(account_id: int, standing: Standing) -> bool:
    """Whether another card is charged as soon as it is chosen: a declined one is tried again, or something is overdue."""
    case = open_case(account_id)
    if case is not None:
        return case.retries_made < RETRIES_MAX
    return standing.past_due_minor > 0


def try_another_card(account: Account, standing: Standing) -> None:
    """Charge a (locked) account at once, for it has chosen another card; also where its hold has closed the case."""
    if not is_tried_at_once(account.pk, standing):
        return
    if open_case(account.pk) is None:
        days = account.entity.retry_days
        ends_at = standing.as_of + timedelta(days=days[-1] if days else 0)
        DunningCase.objects.create(account=account, opened_at=standing.as_of, ends_at=ends_at)
    try_again_soon(account.pk, as_of=standing.as_of)


def close_case(case: DunningCase, *, because: str, as_of: datetime) -> None:
    """Close an open case of a (locked) account."""
    case.closed_at = as_of
    case.closed_because = because
    case.next_try_at = None
    case.save(update_fields=["closed_at", "closed_because", "next_try_at"])


def _next_try(
    case: DunningCase, attempt: PaymentAttempt, days: list[int], *, as_of: datetime
) -> datetime | None:
    if case.retries_made >= RETRIES_MAX:
        return None
    if _has_another_card(attempt):
        return as_of
    if case.decline_class not in charge_protocol.TRIED_AGAIN:
        return None
    return _next_day(case, days, as_of=as_of)


def _next_day(case: DunningCase, days: list[int], *, as_of: datetime) -> datetime | None:
    to_come = (case.opened_at + timedelta(days=day) for day in days)
    return next((at for at in to_come if at > as_of), None)


def _has_another_card(attempt: PaymentAttempt) -> bool:
    """Whether the customer chose another card while this one was being declined."""
    now = PaymentMethod.objects.default_of([attempt.account_id])
    return now.exclude(pk=attempt.payment_method_id).exists()
