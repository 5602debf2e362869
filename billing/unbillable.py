"""
Accounts that cannot be billed as they stand, because something they say does not exist.

The admin refuses it. What got into the database all the same stops its own account and no other: the
account's invoice step is blocked with these words, and its usage waits.
"""

from accounts import zones
from accounts.models import Account
from billing.money import is_currency


def why(account: Account) -> str:
    """Why the account cannot be billed, and what mends it; empty: it can."""
    return _why(account.time_zone, account.currency)


def accounts() -> list[tuple[Account, str]]:
    """All accounts that cannot be billed, and why."""
    said = Account.objects.order_by().values_list("time_zone", "currency").distinct()
    wrong = [each for each in said if _why(*each)]
    found = Account.objects.filter(
        time_zone__in={zone for zone, _ in wrong}, currency__in={code for _, code in wrong}
    )
    return [(account, because) for account in found.order_by("pk") if (because := why(account))]


def _why(time_zone: str, currency: str) -> str:
    if not zones.is_known(time_zone):
        return f"its time zone {time_zone!r} does not exist: correct it in the admin"
    if not is_currency(currency):
        return f"its currency {currency!r} does not exist: correct it in the admin"
    return ""
