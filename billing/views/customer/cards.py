"""
The account's cards: list, add one, make one the default, remove one.

A card is entered on its provider's own page, never on one of ours; only the sandbox's are chosen here.
"""

import dataclasses
import logging
from datetime import datetime
from typing import Any

from django.conf import settings
from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from accounts import clock
from accounts.models import PaymentMethod
from billing import gateways, ledger
from billing.payments import methods
from billing.views.access import Seat, members_only, payers_only, show
from billing.views.customer.forms import AddCardForm
from billing.views.customer.rows import in_flight

logger = logging.getLogger(__name__)


@require_safe
@members_only
def listed(request: HttpRequest, seat: Seat) -> HttpResponse:
    """The cards, the default first."""
    as_of = clock.now()
    standing = ledger.standing(seat.account.pk, as_of=as_of)
    cards = _present(seat).order_by("-is_default", "-pk")
    context = {
        "tab": "cards",
        "cards": [_row(card, as_of=as_of) for card in cards],
        "has_default": any(card.is_default for card in cards),
        "has_chargeable": any(card.state == PaymentMethod.State.ACTIVE for card in cards),
        "charges_others": seat.account.charges_other_cards,
        "takes_cards": bool(gateways.for_cards()),
        "takes_mandates": bool(gateways.for_mandates()),
        "owed": standing.due_minor > 0 and not standing.is_too_little,
        "due": seat.reader.money(standing.due_minor, standing.currency),
        "at_once": _at_once(seat, as_of=as_of),
        "as_of": seat.reader.instant(as_of),
        "in_flight": in_flight(seat, as_of=as_of),
    }
    return show(request, seat, "billing/cards.html", context)


def _at_once(seat: Seat, *, as_of: datetime) -> str:
    """What another card is charged as soon as it is the one to charge; empty for nothing."""
    minor = methods.charged_at_once(seat.account.pk, as_of=as_of)
    return seat.reader.money(minor, seat.account.currency) if minor else ""


@require_http_methods(["GET", "HEAD", "POST"])
@payers_only
def add(request: HttpRequest, seat: Seat) -> HttpResponse:
    """
    Off to the provider's page; or a stand-in's card, one of a few that each behave in their own way.

    No real card is asked for here.
    """
    name = _for_cards()
    if not gateways.is_stand_in(name):
        return _send_to_provider(request, seat)
    as_of = clock.now()
    form = AddCardForm(
        request.POST if request.method == "POST" else None,
        account=seat.account,
        gateway=gateways.get(name),
        as_of=as_of,
    )
    if form.is_valid():
        try:
            card = methods.add_card(
                account_id=seat.account.pk, actor=seat.email, as_of=as_of, **form.card_details()
            )
        except methods.AlreadyAdded as already:
            card = already.method
        except methods.CardBlocked:
            form.add_error("card", _("This card cannot be charged any more. Choose another one."))
            return _form(request, seat, form)
        messages.success(request, _("%(card)s is on the account.") % {"card": card})
        return redirect("cards", seat.account.pk)
    return _form(request, seat, form)


def _for_cards() -> str:
    """Return the gateway for new cards; there is no such page where none takes cards."""
    name = gateways.for_cards()
    if not name:
        raise Http404
    return name


def _send_to_provider(request: HttpRequest, seat: Seat) -> HttpResponse:
    if request.method != "POST":
        context = {"tab": "cards", "at_once": _at_once(seat, as_of=clock.now())}
        return show(request, seat, "billing/card_enter.html", context)
    account = seat.account
    back = f"{settings.SITE_URL}{reverse('card-entered', args=[account.pk])}"
    try:
        gateway = gateways.get(gateways.for_cards())
        customer = gateway.ensure_customer(
            account_ref=account.external_id, email=account.email, name=account.name
        )
        setup = gateway.begin_setup(
            account_ref=account.external_id,
            customer_ref=customer,
            currency=account.currency,
            return_url=back,
        )
    except Exception:
        # Whatever the call raises: nothing has happened yet.
        logger.exception("no card can be entered")
        messages.error(request, _("Cards cannot be entered just now. Please try again later."))
        return redirect("cards", account.pk)
    return redirect(setup.url)


@require_safe
@payers_only
def entered(request: HttpRequest, seat: Seat) -> HttpResponse:
    """Back from the provider's page: with a card, or without one."""
    name, ref = _for_cards(), request.GET.get("setup", "")
    if ref:
        _add_entered(request, seat, name, ref)
    return redirect("cards", seat.account.pk)


def _add_entered(request: HttpRequest, seat: Seat, name: str, ref: str) -> None:
    try:
        setup = gateways.get(name).read_setup(ref)
    except Exception:  # whatever the call raises, its webhook adds the card
        logger.exception("the setup %s cannot be read", ref)
        messages.info(request, _("Your card will be here in a moment."))
        return
    if setup.account_ref != seat.account.external_id or setup.method is None:
        messages.error(request, _("No card was entered."))
        return
    try:
        card = _keep(seat, name, setup.method)
    except (methods.CardBlocked, methods.CardExpired):
        messages.error(request, _("This card cannot be charged any more. Choose another one."))
    else:
        messages.success(request, _("%(card)s is on the account.") % {"card": card})


def _keep(seat: Seat, gateway: str, method: gateways.Method) -> PaymentMethod:
    as_of = clock.now()
    try:
        return methods.add_card(
            account_id=seat.account.pk,
            gateway=gateway,
            actor=seat.email,
            as_of=as_of,
            make_default=True,
            **dataclasses.asdict(method),
        )
    except methods.AlreadyAdded as already:
        # By its webhook, which does not know that it is to be charged; or by a reload.
        return methods.make_default(
            account_id=seat.account.pk,
            method_id=already.method.pk,
            actor=seat.email,
            as_of=as_of,
        )


def _form(request: HttpRequest, seat: Seat, form: AddCardForm) -> HttpResponse:
    context = {"tab": "cards", "form": form, "at_once": _at_once(seat, as_of=form.as_of)}
    return show(request, seat, "billing/card_add.html", context)


@require_POST
@payers_only
def make_default(request: HttpRequest, seat: Seat, method_id: int) -> HttpResponse:
    """Charge this one from now on."""
    try:
        card = methods.make_default(
            account_id=seat.account.pk,
            method_id=method_id,
            actor=seat.email,
            as_of=clock.now(),
        )
    except methods.NoSuchCard:
        raise Http404 from None
    except methods.CardBlocked:
        messages.error(request, _("This card cannot be charged any more. Choose another one."))
        return redirect("cards", seat.account.pk)
    messages.success(request, _("%(card)s will be charged from now on.") % {"card": card})
    return redirect("cards", seat.account.pk)


@require_POST
@payers_only
def others(request: HttpRequest, seat: Seat) -> HttpResponse:
    """Say whether another of the cards may be charged, once the one that is charged has gone at its provider."""
    allowed = request.POST.get("allowed") == "yes"
    methods.charge_other_cards(account_id=seat.account.pk, allowed=allowed, actor=seat.email)
    if allowed:
        said = _("If the card that we charge can no longer be charged, we charge another one here.")
    else:
        said = _("We charge no card but the one that you have chosen.")
    messages.success(request, said)
    return redirect("cards", seat.account.pk)


@require_http_methods(["GET", "HEAD", "POST"])
@payers_only
def remove(request: HttpRequest, seat: Seat, method_id: int) -> HttpResponse:
    """Ask, then remove."""
    card = _present(seat).filter(pk=method_id).first()
    if card is None:
        raise Http404
    if request.method != "POST":
        context = {"tab": "cards", "card": _row(card, as_of=clock.now())}
        return show(request, seat, "billing/card_remove.html", context)
    try:
        methods.remove_card(
            account_id=seat.account.pk,
            method_id=method_id,
            actor=seat.email,
            as_of=clock.now(),
        )
    except methods.NoSuchCard:
        raise Http404 from None
    methods.detach(card)
    messages.success(request, _("%(card)s was removed.") % {"card": card})
    return redirect("cards", seat.account.pk)


def _present(seat: Seat) -> Any:
    return PaymentMethod.objects.filter(account=seat.account).exclude(
        state=PaymentMethod.State.REMOVED
    )


def _row(card: PaymentMethod, *, as_of: datetime) -> dict[str, Any]:
    return {
        "id": card.pk,
        "name": str(card),
        "is_mandate": card.is_mandate,
        "good_until": card.good_until,
        "has_expired": card.has_expired(as_of),
        "is_default": card.is_default,
        "is_blocked": card.state == PaymentMethod.State.BLOCKED,
        "is_sandbox": gateways.is_stand_in(card.gateway),
    }
