"""Write decisions down: what was expected, what was seen under the lock, what was done, and why."""

from typing import Any

from billing.models import Decision


def record(*decisions: Decision) -> None:
    """This will append the decisions in the caller's transaction."""
    Decision.objects.bulk_create(decisions)


def decision(
    *,
    act: str,
    did: str,
    because: str,
    account_id: int | None,
    expected: dict[str, Any] | None = None,
    saw: dict[str, Any] | None = None,
    world_changed: bool = False,
    **links: Any,
) -> Decision:
    """This will make, not yet save, one decision. `links`: run_id, attempt, hold, actor."""
    return Decision(
        act=act,
        did=did,
        because=because[:300],
        account_id=account_id,
        expected=expected or {},
        saw=saw or {},
        world_changed=world_changed,
        **links,
    )
