"""The notice on every page of a trial installation."""

from django.conf import settings
from django.http import HttpRequest

from billing import gateways


def notice(request: HttpRequest) -> dict[str, bool]:
    """Tell templates whether this is a trial in which, indeed, no gateway moves real money."""
    return {
        "no_real_money_moves": settings.TRIAL
        and not any(gateways.moves_money(name) for name in gateways.names())
    }
