"""The first page: what is owed, as of when, what is on its way, and what was used since."""

from datetime import datetime
from typing import Any

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.cache import cache_control
from django.views.decorators.http import require_safe

from accounts import clock, pauses
from accounts.models import Hold, Member, PaymentMethod
from billing import dunning, ledger, messages
from billing.models import AccountClosure, PaymentAttempt
from billing.views.access import LAST_ACCOUNT, Seat, members_only, show
from billing.views.customer import usage
from billing.views.customer.rows import charge_day, invoice_rows, payment_rows

NEWEST = 5


@cache_control(private=True, no_store=True)
@login_required
@require_safe
def start(request: HttpRequest) -> HttpResponse:
    """Go to the account looked at last, or the first; staff without one to the close runs."""
    accounts = list(
        Member.objects.filter(user=request.user.pk)
        .order_by("account__name", "account")
        .values_list("account", flat=True)
    )
    if not accounts:
        return (
            redirect("runs")
            if request.user.is_staff
            else render(request, "billing/no_account.html")
        )
    last = request.session.get(LAST_ACCOUNT)
    return redirect("account", last if last in accounts else accounts[0])


@require_safe
@members_only
def account(request: HttpRequest, seat: Seat) -> HttpResponse:
    """The overview of one account."""
    as_of = clock.now()
    standing = ledger.standing(seat.account.pk, as_of=as_of)
    owed = standing.due_minor > 0
    closed_on = _closed_on(seat)
    # Nor is a closed account charged by itself.
    is_paused = bool(closed_on or pauses.because_of([seat.account.pk]))
    context = {
        "tab": "overview",
        "as_of": seat.reader.instant(as_of),
        "due": seat.reader.money(standing.due_minor, standing.currency),
        "on_its_way": _if_any(seat, standing.in_flight_minor),
        "overdue": _if_any(seat, standing.uncovered_minor),
        "credit": _if_any(seat, standing.credit_minor),
        "in_flight": _in_flight(seat, as_of=as_of),
        "closed_on": closed_on,
        "hold": _hold(seat),
        # While charging is paused nothing is tried again, and nobody is held for it.
        "dunning": None if is_paused else _dunning(seat, as_of=as_of),
        "is_paused": is_paused,
        "card": _card(seat, as_of=as_of),
        "may_pay_now": owed
        and not standing.is_too_little
        and not standing.in_flight_minor
        and seat.member.may_pay,
        "is_too_little": standing.is_too_little,
        "owed": owed,
        "open_invoices": invoice_rows(seat, open_only=True, as_of=as_of, limit=NEWEST),
        "invoices": invoice_rows(seat, as_of=as_of, limit=NEWEST),
        "payments": payment_rows(seat, limit=NEWEST),
        "usage": usage.since_last_invoice(seat, as_of=as_of),
    }
    return show(request, seat, "billing/overview.html", context)


def _if_any(seat: Seat, amount_minor: int) -> str:
    return seat.reader.money(amount_minor, seat.account.currency) if amount_minor > 0 else ""


def _in_flight(seat: Seat, *, as_of: datetime) -> dict[str, str] | None:
    attempt = (
        PaymentAttempt.objects.filter(account=seat.account, state__in=PaymentAttempt.IN_FLIGHT)
        .select_related("payment_method")
        .first()
    )
    if attempt is None:
        return None
    return {
        "amount": seat.reader.money(attempt.amount_minor, attempt.currency),
        "card": str(attempt.payment_method),
        "since": seat.reader.instant(attempt.created_at),
        "day": charge_day(seat, attempt, as_of=as_of),
    }


def _closed_on(seat: Seat) -> str:
    """The day the account was closed; empty: it is open."""
    closure = AccountClosure.objects.standing([seat.account.pk]).first()
    return "" if closure is None else seat.reader.date(closure.closed_at)


def _hold(seat: Seat) -> dict[str, Any] | None:
    hold = Hold.objects.filter(account=seat.account, lifted_at=None).order_by("placed_at").first()
    if hold is None:
        return None
    return {
        "since": seat.reader.instant(hold.placed_at),
        "is_overdue": hold.reason == Hold.Reason.OVERDUE,
    }


def _dunning(seat: Seat, *, as_of: datetime) -> dict[str, str] | None:
    """What happens next to a payment that did not go through."""
    case = dunning.open_case(seat.account.pk)
    if case is None:
        return None
    last_day = messages.last_days_to_pay({seat.account.pk: seat.account}, as_of=as_of)
    declined = case.attempts.select_related("payment_method").order_by("-created_at").first()
    if declined is None:
        # Another card is about to be charged.
        return None
    return {
        "next_try": seat.reader.date(case.next_try_at) if case.next_try_at else "",
        "held_on": seat.reader.day(last_day[seat.account.pk]),
        "reason": str(messages.decline_in_words(declined)[0]),
    }


def _card(seat: Seat, *, as_of: datetime) -> dict[str, Any] | None:
    card = PaymentMethod.objects.default_of([seat.account.pk]).first()
    return {"name": str(card), "has_expired": card.has_expired(as_of)} if card else None
