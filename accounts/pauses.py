"""Pause charging and resume it. Leaves: the caller holds the account's row lock and writes the Decision."""

from collections.abc import Iterable
from datetime import datetime

from accounts import timeline
from accounts.models import ChargingPause


class AlreadyPaused(Exception):
    """Charging the account is paused for this reason."""


def because_of(account_ids: Iterable[int]) -> dict[int, str]:
    """Why charging is paused, for each account where it is: the reason of the oldest open pause."""
    pauses = ChargingPause.objects.filter(account__in=account_ids, resumed_at=None)
    return {
        pause.account_id: f"charging is paused: {pause.because}" for pause in pauses.order_by("-pk")
    }


def pause(
    *, account_id: int, reason: str, because: str, as_of: datetime, actor: str = "system"
) -> ChargingPause:
    """
    Pause charging an account.

    :raises AlreadyPaused: if it is paused for this reason.
    """
    if open_pause(account_id, reason) is not None:
        raise AlreadyPaused(reason)
    paused = ChargingPause.objects.create(
        account_id=account_id,
        reason=reason,
        because=because[:300],
        paused_at=as_of,
        paused_by=actor,
    )
    timeline.record(
        timeline.event(
            account_id=account_id,
            kind="charging.paused",
            summary=f"Charging is paused: {because}"[:300],
            actor=actor,
            pause=paused.pk,
        )
    )
    return paused


def resume(
    *, paused: ChargingPause, as_of: datetime, because: str, actor: str = "system"
) -> ChargingPause:
    """Resume charging, unless it is paused for another reason as well."""
    assert paused.resumed_at is None, f"{paused} was ended already: the caller read it unlocked"
    paused.resumed_at, paused.resumed_by = as_of, actor
    paused.save(update_fields=["resumed_at", "resumed_by"])
    timeline.record(
        timeline.event(
            account_id=paused.account_id,
            kind="charging.resumed",
            summary=f"The pause of charging is over: {because}"[:300],
            actor=actor,
            pause=paused.pk,
        )
    )
    return paused


def open_pause(account_id: int, reason: str) -> ChargingPause | None:
    """The open pause for a reason, if there is one."""
    return ChargingPause.objects.filter(account=account_id, reason=reason, resumed_at=None).first()
