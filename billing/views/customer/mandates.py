"""Set up a direct debit: a mandate of the sandbox provider, chosen by what it will do."""

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods

from accounts import clock
from billing import gateways
from billing.payments import methods
from billing.views.access import Seat, payers_only, show
from billing.views.customer.forms import AddMandateForm


@require_http_methods(["GET", "HEAD", "POST"])
@payers_only
def add(request: HttpRequest, seat: Seat) -> HttpResponse:
    """A sandbox mandate: one of a few that each behave in their own way. No real account is asked for."""
    name = gateways.for_mandates()
    if not name:
        raise Http404
    form = AddMandateForm(
        request.POST if request.method == "POST" else None,
        account=seat.account,
        gateway=gateways.get(name),
    )
    if form.is_valid():
        try:
            mandate = methods.add_card(
                account_id=seat.account.pk,
                actor=seat.email,
                as_of=clock.now(),
                **form.mandate_details(),
            )
        except methods.AlreadyAdded as already:
            mandate = already.method
        except (methods.CardExpired, methods.CardBlocked):
            messages.error(request, _("This direct debit was ended: set up another one."))
            return redirect("cards", seat.account.pk)
        messages.success(request, _("%(card)s is on the account.") % {"card": mandate})
        return redirect("cards", seat.account.pk)
    minor = methods.charged_at_once(seat.account.pk, as_of=clock.now())
    at_once = seat.reader.money(minor, seat.account.currency) if minor else ""
    context = {"tab": "cards", "form": form, "at_once": at_once}
    return show(request, seat, "billing/mandate_add.html", context)
