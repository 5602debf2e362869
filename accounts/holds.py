"""Place and lift holds. Leaves: the caller holds the account's row lock and writes the Decision."""

from datetime import datetime

from accounts import timeline
from accounts.models import Hold


class AlreadyHeld(Exception):
    """The account has an open hold for this reason."""


def place_hold(
    *,
    account_id: int,
    reason: str,
    as_of: datetime,
    actor: str = "system",
    grace_days: int | None = None,
    warned_at: datetime | None = None,
) -> Hold:
    """
    Place a hold on an account; `warned_at` is when it was told so, and `grace_days` what that had to leave it.

    :raises AlreadyHeld: if one for this reason is open.
    """
    if Hold.objects.filter(account_id=account_id, reason=reason, lifted_at=None).exists():
        raise AlreadyHeld(reason)
    hold = Hold.objects.create(
        account_id=account_id,
        reason=reason,
        placed_at=as_of,
        grace_days=grace_days,
        warned_at=warned_at,
    )
    timeline.record(
        timeline.event(
            account_id=account_id,
            kind="hold.placed",
            summary=f"Hold placed: {hold.get_reason_display()}",
            actor=actor,
            hold=hold.pk,
        )
    )
    return hold


def lift_hold(*, hold: Hold, as_of: datetime, because: str, actor: str = "system") -> Hold:
    """Lift an open hold. Lifting a lifted one is a defect of the caller."""
    assert hold.lifted_at is None, f"{hold} was lifted already: the caller read it without the lock"
    hold.lifted_at = as_of
    hold.save(update_fields=["lifted_at"])
    timeline.record(
        timeline.event(
            account_id=hold.account_id,
            kind="hold.lifted",
            summary=f"Hold lifted: {because}",
            actor=actor,
            hold=hold.pk,
        )
    )
    return hold
