"""Where a request comes from."""

import ipaddress

from django.conf import settings
from django.http import HttpRequest


def address_of(request: HttpRequest | None) -> str:
    """
    The address that a request comes from; empty where nobody can tell, as behind a proxy that nobody told us of.

    Each proxy adds whom it heard to X-Forwarded-For; what stands before those of ours could be anybody's words.
    """
    if request is None:
        return ""
    heard = str(request.META.get("REMOTE_ADDR", ""))
    if settings.WEB_PROXIES:
        said = [each.strip() for each in request.headers.get("X-Forwarded-For", "").split(",")]
        heard = said[-settings.WEB_PROXIES] if len(said) >= settings.WEB_PROXIES else ""
    try:
        address = ipaddress.ip_address(heard)
    except ValueError:
        return ""
    return "" if address.is_loopback else str(address)
