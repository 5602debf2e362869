"""The one charge that a closing decided on. Made by whoever closes, and by the sweep where that died."""

import logging
from datetime import datetime

from django.db import transaction

from billing import locks
from billing.models import AccountClosure, PaymentAttempt
from billing.payments import charges
from notifications.faults import is_the_databases_fault

logger = logging.getLogger(__name__)

CHARGED_AT_ONCE = 50


def charge_due(*, as_of: datetime, account_id: int | None = None) -> int:
    """
    Make the charges that closings decided on, or that of one account. Returns how many are settled.

    Twice is once: an attempt that was begun since the closing is that charge, however it ended.

    :raises Exception: what could not be done with one of them, after the others.
    """
    due = AccountClosure.objects.filter(charge_at__lte=as_of, reopened_at=None)
    if account_id is not None:
        due = due.filter(account=account_id)
    settled, errors = 0, []
    for closure in due.order_by("charge_at", "pk")[:CHARGED_AT_ONCE]:
        try:
            settled += _charge(closure, as_of=as_of)
        except Exception as error:
            if is_the_databases_fault(error):
                raise
            logger.exception("%s could not be charged", closure)
            errors.append(error)
    if errors:
        raise errors[0]
    return settled


def _charge(closure: AccountClosure, *, as_of: datetime) -> int:
    if not _was_begun(closure):
        asked = charges.Request(closure.account_id, is_by_a_person=True)
        collected = charges.collect_all([asked], as_of=as_of)
        refused = collected.refused.get(closure.account_id)
        if isinstance(refused, charges.AttemptInFlight | charges.GatewayClosed):
            # What is due is not known yet, or nobody is charged now: the next sweep looks again.
            return 0
    return _note(closure)


def _was_begun(closure: AccountClosure) -> bool:
    attempts = PaymentAttempt.objects.filter(account=closure.account_id)
    return attempts.filter(created_at__gte=closure.locked_at, run=None).exists()


@transaction.atomic(durable=True)
def _note(closure: AccountClosure) -> int:
    locks.account_for_update(closure.account_id)
    return AccountClosure.objects.filter(pk=closure.pk).update(charge_at=None)
