"""Direct debits: announced to the customer, collected on a day of theirs, and then the bank takes days."""

from contextlib import suppress
from datetime import date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from accounts import zones
from accounts.models import Account
from billing import gateways
from billing.charge_protocol import State
from billing.models import PaymentAttempt


def charge_date(account: Account, gateway: str, *, as_of: datetime) -> date | None:
    """The first day on which a debit may be collected, where the account is; None: it is charged at once."""
    capabilities = _capabilities(gateway)
    if capabilities is None or not capabilities.typical_days:
        return None
    today = as_of.astimezone(_zone(account)).date()
    return today + timedelta(days=capabilities.notice_days)


def _capabilities(gateway: str) -> gateways.Capabilities | None:
    """How a gateway behaves; None if it is not set up, which `driving._prepare` will say."""
    with suppress(gateways.Misconfigured):
        return gateways.get(gateway).capabilities
    return None


def waits_for_its_day(attempt: PaymentAttempt, *, as_of: datetime) -> bool:
    """Whether the day that its customer was told of has not come."""
    return attempt.charge_date is not None and as_of < begins_at(attempt)


def begins_at(attempt: PaymentAttempt) -> datetime:
    assert attempt.charge_date is not None, f"{attempt} is charged at once"
    return datetime.combine(attempt.charge_date, time.min, tzinfo=_zone(attempt.account))


def _zone(account: Account) -> ZoneInfo:
    return ZoneInfo(zones.or_utc(account.time_zone))


def on_its_way(attempt: PaymentAttempt, *, as_of: datetime) -> str:
    """
    How a debit goes on that waits for its day, or for the bank, as debits do: in words.

    Empty where it does not: it has ended, is being sent, or its provider answers at once.
    """
    capabilities = _capabilities(attempt.gateway)
    if attempt.charge_date is None or capabilities is None:
        return ""
    bank = f"the bank takes about {capabilities.typical_days} days"
    match attempt.state:
        case State.PREPARED if waits_for_its_day(attempt, as_of=as_of):
            return f"on its way: collected on {attempt.charge_date}, then {bank}"
        case State.PROCESSING:
            return f"on its way: {bank}"
        case _:
            return ""
