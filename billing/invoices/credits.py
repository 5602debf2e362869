"""Credit: granted by us, used on invoices oldest expiry first, expired when its time is over."""

import uuid
from collections.abc import Sequence
from datetime import datetime

from django.db import transaction
from django.db.models import F

from accounts import timeline
from accounts.models import Account
from billing import dunning, ledger, locks
from billing.ledger import settlement
from billing.models import Allocation, CreditGrant
from billing.money import money
from notifications import bisect


class AlreadyGranted(Exception):
    """A grant with this token stands: the form was sent twice."""


class WrongCurrency(ValueError):
    """An account is credited, and pays, in its own currency alone."""


@transaction.atomic(durable=True)
def grant_credit(
    *,
    account_id: int,
    token: uuid.UUID,
    amount_minor: int,
    currency: str,
    reason: str,
    granted_by: str,
    as_of: datetime,
    kind: str = CreditGrant.Kind.GOODWILL,
    expires_at: datetime | None = None,
) -> CreditGrant:
    """
    Give an account credit, in minor units, and use it at once on what is owed.

    :raises AlreadyGranted: if the token was used.
    :raises WrongCurrency: if the currency is not the account's.
    """
    account = locks.account_for_update(account_id)
    if currency != account.currency:
        raise WrongCurrency(
            f"currency {currency}: account {account.external_id} is in {account.currency}"
        )
    if CreditGrant.objects.filter(token=token).exists():
        raise AlreadyGranted(token)
    grant = CreditGrant.objects.create(
        account=account,
        token=token,
        kind=kind,
        currency=currency,
        amount_minor=amount_minor,
        remaining_minor=amount_minor,
        expires_at=expires_at,
        reason=reason,
        granted_by=granted_by,
    )
    ledger.post([ledger.credit_granted(grant, entity_id=account.entity_id, as_of=as_of)])
    timeline.record(
        timeline.event(
            account_id=account.pk,
            kind="credit.granted",
            summary=f"Credit of {money(amount_minor, currency)} granted: {reason}",
            actor=granted_by,
            grant=grant.pk,
        )
    )
    apply_credits([account], as_of=as_of)
    grant.refresh_from_db(fields=["remaining_minor", "expired_minor"])
    return grant


def apply_credits(accounts: Sequence[Account], *, as_of: datetime) -> list[Allocation]:
    """
    Use the (locked) accounts' credit on their open invoices, oldest expiry first.

    Expired credit is booked as such first, so it can never be used.
    """
    expire_credits(accounts, as_of=as_of)
    entities = {account.pk: account.entity_id for account in accounts}
    grants = list(
        CreditGrant.objects.filter(account__in=accounts, remaining_minor__gt=0).order_by(
            F("expires_at").asc(nulls_last=True), "pk"
        )
    )
    if not grants:
        return []
    holders = {grant.account_id for grant in grants}
    sources = [
        settlement.Source(grant.account_id, grant.remaining_minor, grant=grant) for grant in grants
    ]
    allocations = settlement.allocate(
        sources=sources, invoices=locks.open_invoices_for_update(holders), as_of=as_of
    )
    for source, grant in zip(sources, grants, strict=True):
        grant.remaining_minor = source.available_minor
    CreditGrant.objects.bulk_update(grants, ["remaining_minor"])
    ledger.post(
        [
            ledger.credit_applied(
                allocation.grant,
                allocation_id=allocation.pk,
                amount_minor=allocation.amount_minor,
                entity_id=entities[allocation.grant.account_id],
                as_of=as_of,
            )
            for allocation in allocations
            if allocation.grant is not None
        ]
    )
    dunning.lift_settled_holds(holders, because="settled by credit", as_of=as_of)
    return allocations


def expire_credits(accounts: Sequence[Account], *, as_of: datetime) -> list[CreditGrant]:
    """Book what the (locked) accounts did not use in time as expired."""
    expired = list(
        CreditGrant.objects.filter(
            account__in=accounts, remaining_minor__gt=0, expires_at__lte=as_of
        ).order_by("pk")
    )
    entities = {account.pk: account.entity_id for account in accounts}
    for grant in expired:
        grant.expired_minor, grant.remaining_minor = grant.remaining_minor, 0
    CreditGrant.objects.bulk_update(expired, ["expired_minor", "remaining_minor"])
    ledger.post(
        [
            ledger.credit_expired(
                grant,
                amount_minor=grant.expired_minor,
                entity_id=entities[grant.account_id],
                as_of=as_of,
            )
            for grant in expired
        ]
    )
    timeline.record(
        *(
            timeline.event(
                account_id=grant.account_id,
                kind="credit.expired",
                summary=f"Credit of {money(grant.expired_minor, grant.currency)} expired unused: {grant.reason}",
                grant=grant.pk,
            )
            for grant in expired
        )
    )
    return expired


def expire_due_credits(*, as_of: datetime, limit: int = 200) -> int:
    """
    Expire the credit of up to `limit` accounts whose time is over; for the sweeper.

    :raises Exception: what could not be done with one of them, after the others.
    """
    holders = (
        CreditGrant.objects.filter(remaining_minor__gt=0, expires_at__lte=as_of)
        .order_by("account")
        .values_list("account", flat=True)
        .distinct()[:limit]
    )
    expired = 0

    def expire(some: Sequence[int]) -> None:
        nonlocal expired
        expired += _expire(some, as_of=as_of)

    if failed := list(bisect.failures(expire, list(holders), what="accounts")):
        raise failed[0][1]
    return expired


@transaction.atomic(durable=True)
def _expire(account_ids: Sequence[int], *, as_of: datetime) -> int:
    accounts = locks.accounts_for_update(account_ids)
    return len(expire_credits(list(accounts.values()), as_of=as_of))
