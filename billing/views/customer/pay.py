"""
Pay now, and what became of it.

The page carries the amount it showed and the newest attempt it knew of. A form sent twice finds a
newer attempt and shows that one; an amount that has changed meanwhile is shown again, not charged.
"""

import uuid
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from accounts import clock
from accounts.models import PaymentMethod
from billing import decisions, ledger, messages
from billing.ledger import Standing
from billing.models import Decision, Payment, PaymentAttempt
from billing.payments import charges, guard, throttle
from billing.views.access import Seat, members_only, payers_only, show
from billing.views.customer import went_back
from billing.views.customer.rows import by_transfer, charge_day, confirm_until, in_flight

State = PaymentAttempt.State

# Who reloads the page does not call the provider each time.
ASK_AGAIN_AFTER = timedelta(seconds=10)


@require_http_methods(["GET", "HEAD", "POST"])
@payers_only
def pay(request: HttpRequest, seat: Seat) -> HttpResponse:
    """Ask before charging; then charge, once."""
    if request.method != "POST":
        return _confirm(request, seat)
    newest = _newest_attempt(seat)
    if newest is not None and str(newest.pk) != request.POST.get("seen"):
        return redirect("attempt", seat.account.pk, newest.pk)
    return _collect(request, seat)


def _collect(request: HttpRequest, seat: Seat) -> HttpResponse:
    as_of = clock.now()
    shown_minor = _shown_minor(request)
    asked = charges.Request(
        account_id=seat.account.pk,
        kind=PaymentAttempt.Kind.ON_SESSION,
        only_if_due_minor=shown_minor,
    )
    collected = charges.begin([asked], as_of=as_of)
    refused = collected.refused.get(seat.account.pk)
    if refused is not None:
        _decide(
            seat, refused.standing, shown_minor, did=Decision.Did.SKIPPED, because=refused.because
        )
        return _refused(request, seat, refused)
    attempt = collected.attempts[seat.account.pk]
    _decide(
        seat,
        collected.standings[seat.account.pk],
        shown_minor,
        did=Decision.Did.DONE,
        because="the customer asked to pay",
        attempt=attempt,
    )
    return redirect("attempt", seat.account.pk, attempt.pk)


def _refused(request: HttpRequest, seat: Seat, refused: charges.CannotCollect) -> HttpResponse:
    match refused:
        case charges.AttemptInFlight(attempt=attempt):
            if _has_merely_begun(attempt):
                # The customer's own wish goes before the batch that has the same in mind.
                _hurry(attempt)
            return redirect("attempt", seat.account.pk, attempt.pk)
        case charges.BalanceChanged():
            return _confirm(
                request, seat, notice=_("The amount has changed. Please look at it again.")
            )
        case charges.GatewayClosed():
            return _confirm(
                request,
                seat,
                notice=_("Payments are paused for a short while; nothing was charged."),
            )
        case _:
            # Nothing due, or no card any more: the page itself says so.
            return _confirm(request, seat)


def _shown_minor(request: HttpRequest) -> int:
    """The amount on the page that was sent; one that is no number matches no balance."""
    try:
        return int(request.POST.get("due_minor", ""))
    except ValueError:
        return -1


def _confirm(request: HttpRequest, seat: Seat, *, notice: str = "") -> HttpResponse:
    as_of = clock.now()
    standing = ledger.standing(seat.account.pk, as_of=as_of)
    newest = _newest_attempt(seat)
    context = {
        "tab": "overview",
        "notice": notice,
        "as_of": seat.reader.instant(as_of),
        "due": seat.reader.money(standing.due_minor, standing.currency),
        "due_minor": standing.due_minor,
        "owed": standing.due_minor > 0,
        "is_too_little": standing.is_too_little,
        "in_flight": (
            in_flight(seat, as_of=as_of) if newest is not None and _is_on_its_way(newest) else None
        ),
        "seen": newest.pk if newest is not None else "",
        "transfer": by_transfer(seat.account.entity, seat.account),
        **_card(seat, as_of=as_of),
    }
    return show(request, seat, "billing/pay.html", context)


def _card(seat: Seat, *, as_of: datetime) -> dict[str, Any]:
    card = PaymentMethod.objects.default_of([seat.account.pk]).first()
    if card is None:
        return {"card": ""}
    return {
        "card": str(card),
        "card_has_expired": card.has_expired(as_of),
        # Looked at again under the lock; here so that nobody is asked to press a button that will refuse.
        "is_paused": bool(guard.closed([card.gateway]) or throttle.shut([card.gateway])),
    }


def _is_on_its_way(attempt: PaymentAttempt) -> bool:
    return attempt.is_in_flight and not _has_merely_begun(attempt)


def _has_merely_begun(attempt: PaymentAttempt) -> bool:
    """Whether no money can have moved yet, and the attempt does not wait for a day that was announced."""
    return attempt.state in {State.RESERVED, State.PREPARED} and attempt.charge_date is None


def _newest_attempt(seat: Seat) -> PaymentAttempt | None:
    return PaymentAttempt.objects.filter(account=seat.account).order_by("-created_at", "pk").first()


def _decide(
    seat: Seat,
    standing: Standing,
    shown_minor: int,
    *,
    did: str,
    because: str,
    attempt: PaymentAttempt | None = None,
) -> None:
    decisions.record(
        decisions.decision(
            act="PAY_NOW",
            did=did,
            because=because,
            account_id=seat.account.pk,
            expected={"due_minor": shown_minor, "currency": standing.currency},
            saw=standing.facts,
            world_changed=did == Decision.Did.SKIPPED,
            attempt=attempt,
            actor=seat.email,
        )
    )


# --- what became of it


@require_safe
@members_only
def attempt(request: HttpRequest, seat: Seat, attempt_id: uuid.UUID) -> HttpResponse:
    """Where one attempt stands, in words; the page looks again by itself while it is on its way."""
    found = _own(seat, attempt_id)
    as_of = clock.now()
    is_asked_about = found.unknown_since is not None and not seat.looks_on
    if is_asked_about and as_of - found.updated_at > ASK_AGAIN_AFTER:
        # Somebody looks: nobody knows yet, and it is not asked about just now.
        _hurry(found)
        found.refresh_from_db()
    standing = ledger.standing(seat.account.pk, as_of=as_of)
    context = {
        "tab": "overview",
        "as_of": seat.reader.instant(as_of),
        "amount": seat.reader.money(found.amount_minor, found.currency),
        "card": str(found.payment_method),
        "at": seat.reader.instant(found.created_at),
        "day": charge_day(seat, found, as_of=as_of),
        "confirm_until": confirm_until(seat, found),
        "due": seat.reader.money(standing.due_minor, standing.currency),
        "owed": standing.due_minor > 0,
        "outcome": outcome(found, as_of=as_of),
        "looks_again_after": _looks_again_after(found, as_of=as_of),
        "attempt": found.pk,
        "went_back": _went_back(seat, found),
        **_decline(found),
    }
    return show(request, seat, "billing/attempt.html", context)


@require_POST
@payers_only
def confirm(request: HttpRequest, seat: Seat, attempt_id: uuid.UUID) -> HttpResponse:
    """Off to the bank, which asks the customer whether it is them."""
    found = _own(seat, attempt_id)
    back = f"{settings.SITE_URL}{reverse('attempt-confirmed', args=[seat.account.pk, found.pk])}"
    as_of = clock.now()
    return redirect(charges.begin_authentication(found, return_url=back, as_of=as_of))


@require_safe
@payers_only
def confirmed(request: HttpRequest, seat: Seat, attempt_id: uuid.UUID) -> HttpResponse:
    """Back from the bank. What it says is not read from the address: the provider is asked, before all others' turn."""
    found = _own(seat, attempt_id)
    _hurry(found)
    return redirect("attempt", seat.account.pk, found.pk)


def _own(seat: Seat, attempt_id: uuid.UUID) -> PaymentAttempt:
    found = (
        PaymentAttempt.objects.filter(account=seat.account, pk=attempt_id)
        .select_related("payment_method")
        .first()
    )
    if found is None:
        raise Http404
    return found


def _hurry(attempt: PaymentAttempt) -> None:
    charges.hurry([attempt], as_of=clock.now(), priority=charges.CUSTOMERS_OWN)


def is_in_hand(attempt: PaymentAttempt, *, as_of: datetime) -> bool:
    """Whether a worker has an attempt in hand, or takes it next: then its end is a moment away."""
    is_next = attempt.next_action_at is not None and attempt.next_action_at <= as_of
    is_claimed = attempt.lease_until is not None and attempt.lease_until > as_of
    return attempt.is_in_flight and (is_next or is_claimed)


def _looks_again_after(attempt: PaymentAttempt, *, as_of: datetime) -> int:
    """After how many seconds the page looks again by itself; 0: not at all."""
    has_begun = outcome(attempt, as_of=as_of) in {"on_its_way", "unknown"}
    if not has_begun or (attempt.charge_date is not None and attempt.state != State.RESERVED):
        return 0
    return 2 if as_of - attempt.created_at < timedelta(minutes=1) else 10


def outcome(attempt: PaymentAttempt, *, as_of: datetime) -> str:
    """What a customer is told of an attempt: one of six words the page knows."""
    match attempt.state:
        case State.SUCCEEDED:
            return "paid"
        case State.FAILED:
            return "declined"
        case State.RELEASED:
            return "given_up"
        case State.REQUIRES_ACTION if is_in_hand(attempt, as_of=as_of):
            # They are back from their bank, and we ask what it has said.
            return "on_its_way"
        case State.REQUIRES_ACTION:
            return "confirm_with_bank"
        case State.CANCELING if attempt.decline_code:
            return "declined"
        case State.PROCESSING | State.CANCELING:
            return "on_its_way"
        case State.PREPARED if attempt.charge_date is not None:
            return "on_its_way"
        case State.RESERVED | State.PREPARED | State.SUBMITTED if attempt.unknown_since is None:
            return "on_its_way"
        case _:
            return "unknown"


def _went_back(seat: Seat, attempt: PaymentAttempt) -> list[str]:
    paid = list(Payment.objects.filter(attempt=attempt).values_list("pk", flat=True))
    return went_back.by_payment(seat, paid).get(paid[0], []) if paid else []


def _decline(attempt: PaymentAttempt) -> dict[str, str]:
    reason, advice = messages.decline_in_words(attempt)
    return {"reason": str(reason), "advice": str(advice)}
