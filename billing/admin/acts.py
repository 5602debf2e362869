"""
The pages behind an account's buttons. Each asks first, shows what will be true, then makes one call.

A form carries a token, or the newest charge it knew of: sent twice, it is done once, and says so.
"""

from collections.abc import Callable
from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render

from accounts import clock, holds, pauses
from accounts.models import Account, ChargingPause, Hold, PaymentMethod
from billing import decisions, dunning, ledger
from billing.admin import forecast
from billing.admin.account_page import in_flight
from billing.admin.asks import account_of, email_of, sent
from billing.admin.cells import instant, money
from billing.admin.forms import GrantCreditForm, MoneyForm, ReasonForm, RecordPaymentForm
from billing.invoices import credits
from billing.models import Decision, PaymentAttempt
from billing.payments import booking, charges, disputes, transfers

Context = Callable[[HttpRequest], dict[str, Any]]


def grant_credit(request: HttpRequest, account_id: int, *, site: Context) -> HttpResponse:
    """Give credit: a form, what will be true after, and the grant."""
    account = account_of(request, account_id, "accounts.grant_credit")
    form = GrantCreditForm(sent(request), account=account, as_of=clock.now())
    if not _is_confirmed(request, form):
        return _money_page(request, account, form, "Grant credit", site=site)
    try:
        credits.grant_credit(
            account_id=account.pk,
            token=form.cleaned_data["token"],
            amount_minor=form.amount_minor,
            currency=account.currency,
            reason=form.cleaned_data["reason"],
            granted_by=email_of(request),
            as_of=form.as_of,
            kind=form.cleaned_data["kind"],
            expires_at=form.expires_at,
        )
    except credits.AlreadyGranted:
        messages.info(request, "The form was sent twice: the credit was granted once.")
    else:
        granted = money(form.amount_minor, account.currency)
        messages.success(request, f"Granted {granted} to {account}.")
    return redirect(account)


def record_payment(request: HttpRequest, account_id: int, *, site: Context) -> HttpResponse:
    """Book money that came in by itself: a form, what will be true after, and the payment."""
    account = account_of(request, account_id, "accounts.record_payment")
    form = RecordPaymentForm(sent(request), account=account, as_of=clock.now())
    if not _is_confirmed(request, form):
        return _money_page(request, account, form, "Record payment", site=site)
    try:
        booking.record_payment(
            account_id=account.pk,
            token=form.cleaned_data["token"],
            amount_minor=form.amount_minor,
            currency=account.currency,
            method=form.method_in_words,
            reason=form.cleaned_data["reason"],
            recorded_by=email_of(request),
            as_of=form.as_of,
        )
    except booking.AlreadyRecorded:
        messages.info(request, "The form was sent twice: the payment was recorded once.")
    else:
        recorded = money(form.amount_minor, account.currency)
        messages.success(request, f"Recorded {recorded} from {account}.")
    return redirect(account)


def _is_confirmed(request: HttpRequest, form: MoneyForm) -> bool:
    return form.is_valid() and "confirmed" in request.POST


def _money_page(
    request: HttpRequest, account: Account, form: MoneyForm, title: str, *, site: Context
) -> HttpResponse:
    """The form; or, once it is right, what will be true after it."""
    standing = ledger.standing(account.pk, as_of=form.as_of)
    context = {
        "title": title,
        "account": account,
        "form": form,
        "as_of": instant(form.as_of),
        "due": money(standing.due_minor, account.currency),
        "credit": money(standing.credit_minor, account.currency),
        "in_flight": in_flight(account),
    }
    template = "admin/accounts/account/money.html"
    if form.is_valid() and "back" not in request.POST:
        context["forecast"] = forecast.of(account, standing, amount_minor=form.amount_minor)
        context["chosen"] = [
            (field.label, _chosen(field.value()))
            for field in form.visible_fields()
            if field.name != "amount"
        ]
        if isinstance(form, RecordPaymentForm):
            context["came_in"] = transfers.like_to_be_recorded(
                account, amount_minor=form.amount_minor, as_of=form.as_of
            )
        template = "admin/accounts/account/money_confirm.html"
    return render(request, template, site(request) | context)


def _chosen(value: Any) -> str:
    return str(value).capitalize() if str(value).isupper() else str(value or "–")


# --- charge now


def charge(request: HttpRequest, account_id: int, *, site: Context) -> HttpResponse:
    """Charge what is due now: shows the amount and the card, then asks the provider."""
    account = account_of(request, account_id, "accounts.charge_account")
    form = ReasonForm(sent(request))
    newest = account.attempts.order_by("-created_at").first()
    seen = str(newest.pk) if newest else ""
    if request.method == "POST" and request.POST.get("seen", "") != seen:
        messages.info(request, "A charge was tried meanwhile: look at it before you try another.")
        return redirect(account)
    if form.is_valid():
        _charge(request, account, because=form.cleaned_data["reason"])
        return redirect(account)
    return _charge_page(request, account, form, seen=seen, site=site)


def _charge_page(
    request: HttpRequest, account: Account, form: ReasonForm, *, seen: str, site: Context
) -> HttpResponse:
    as_of = clock.now()
    standing = ledger.standing(account.pk, as_of=as_of)
    card = PaymentMethod.objects.default_of([account.pk]).first()
    context = {
        "title": "Charge now",
        "account": account,
        "form": form,
        "as_of": instant(as_of),
        "due": money(standing.due_minor, account.currency),
        "due_minor": standing.due_minor,
        "owes": standing.due_minor > 0,
        "card": str(card) if card else "",
        "card_has_expired": card is not None and card.has_expired(as_of),
        "in_flight": in_flight(account),
        "seen": seen,
    }
    return render(request, "admin/accounts/account/charge.html", site(request) | context)


def _charge(request: HttpRequest, account: Account, *, because: str) -> None:
    as_of = clock.now()
    shown_minor = _shown_minor(request)
    asked = charges.Request(
        account.pk,
        PaymentAttempt.Kind.AUTO,
        only_if_due_minor=shown_minor,
        of_closed_too=True,
    )
    collected = charges.begin([asked], as_of=as_of)
    attempt, refused = (
        collected.attempts.get(account.pk),
        collected.refused.get(account.pk),
    )
    decisions.record(
        decisions.decision(
            act="CHARGE_NOW",
            did=Decision.Did.SKIPPED if refused else Decision.Did.DONE,
            because=f"{refused.because} (asked: {because})" if refused else because,
            account_id=account.pk,
            expected={"due_minor": shown_minor, "currency": account.currency},
            saw=collected.standings[account.pk].facts,
            world_changed=refused is not None,
            attempt=attempt,
            actor=email_of(request),
        )
    )
    if refused:
        messages.warning(request, f"Nothing was charged: {refused.because}.")
    else:
        assert attempt is not None, "what is not refused was attempted"
        amount = money(attempt.amount_minor, attempt.currency)
        messages.success(
            request,
            f"{amount} is being charged to {attempt.payment_method}: see its payment attempt for how it ends.",
        )


def _shown_minor(request: HttpRequest) -> int:
    """The amount on the page that was sent; one that is no number matches no balance."""
    try:
        return int(request.POST.get("due_minor", ""))
    except ValueError:
        return -1


# --- holds


def place_hold(request: HttpRequest, account_id: int, *, site: Context) -> HttpResponse:
    """Place a hold by hand, with a reason."""
    account = account_of(request, account_id, "accounts.place_hold")
    form = ReasonForm(sent(request))
    if form.is_valid():
        try:
            dunning.place_hold_by_hand(
                account_id=account.pk,
                reason=form.cleaned_data["reason"],
                actor=email_of(request),
                as_of=clock.now(),
            )
        except holds.AlreadyHeld:
            messages.info(request, f"{account} is held by hand already.")
        else:
            messages.success(request, f"{account} is on hold.")
        return redirect(account)
    context = {"title": "Place a hold", "account": account, "form": form}
    return render(request, "admin/accounts/account/hold.html", site(request) | context)


def lift_hold(
    request: HttpRequest, account_id: int, hold_id: int, *, site: Context
) -> HttpResponse:
    """Lift a hold by hand, with a reason."""
    account = account_of(request, account_id, "accounts.place_hold")
    hold = get_object_or_404(Hold, pk=hold_id, account=account)
    form = ReasonForm(sent(request))
    if form.is_valid():
        try:
            dunning.lift_hold_by_hand(
                hold_id=hold.pk,
                reason=form.cleaned_data["reason"],
                actor=email_of(request),
                as_of=clock.now(),
            )
        except dunning.NotHeld:
            messages.info(request, "It was lifted already.")
        else:
            messages.success(request, f"The hold on {account} is lifted.")
        return redirect(account)
    context = {"title": "Lift the hold", "account": account, "form": form, "hold": hold}
    return render(request, "admin/accounts/account/hold.html", site(request) | context)


# --- pauses


def pause_charging(request: HttpRequest, account_id: int, *, site: Context) -> HttpResponse:
    """Stop charging the account by itself, with a reason."""
    account = account_of(request, account_id, "accounts.pause_charging")
    form = ReasonForm(sent(request))
    if form.is_valid():
        try:
            disputes.pause_by_hand(
                account_id=account.pk,
                reason=form.cleaned_data["reason"],
                actor=email_of(request),
                as_of=clock.now(),
            )
        except pauses.AlreadyPaused:
            messages.info(request, f"Charging {account} is paused by hand already.")
        else:
            messages.success(request, f"Charging {account} is paused.")
        return redirect(account)
    context = {"title": "Pause charging", "account": account, "form": form}
    return render(request, "admin/accounts/account/pause.html", site(request) | context)


def resume_charging(
    request: HttpRequest, account_id: int, pause_id: int, *, site: Context
) -> HttpResponse:
    """End a pause, with a reason."""
    account = account_of(request, account_id, "accounts.pause_charging")
    pause = get_object_or_404(ChargingPause, pk=pause_id, account=account)
    form = ReasonForm(sent(request))
    if form.is_valid():
        try:
            disputes.resume_by_hand(
                pause_id=pause.pk,
                reason=form.cleaned_data["reason"],
                actor=email_of(request),
                as_of=clock.now(),
            )
        except disputes.NotPaused:
            messages.info(request, "The pause was over already.")
        except disputes.StillDisputed:
            messages.warning(
                request, "A dispute is open: charging stays paused until it is decided."
            )
        else:
            messages.success(request, f"The pause of charging {account} is over.")
        return redirect(account)
    context = {"title": "Resume charging", "account": account, "form": form, "pause": pause}
    return render(request, "admin/accounts/account/pause.html", site(request) | context)
