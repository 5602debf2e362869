"""What a person does with a refund of which nobody knows whether it was sent."""

import uuid
from datetime import datetime

from django.db import transaction

from billing.models import Refund
from billing.payments.refunds import refund_kind, settling

State = Refund.State


class NotInReview(Exception):
    """The refund has come to its end meanwhile, or goes on by itself."""


def resolve_review(*, refund_id: uuid.UUID, reason: str, actor: str, as_of: datetime) -> Refund:
    """
    End a refund in review: by what the provider says now, or else by what a person saw there.

    Where the provider still has none, it is undone, since a person says that it never left. Should the
    provider have it after all, that is booked as made there.

    :raises NotInReview: if it is in review no longer.
    """
    in_review = Refund.objects.select_related("payment", "account").get(pk=refund_id)
    if in_review.state != State.REVIEW:
        raise NotInReview(str(in_review))
    refund_kind.ask(in_review, as_of=as_of)
    _release(refund_id, because=f"released by {actor}: {reason}", actor=actor, as_of=as_of)
    return Refund.objects.get(pk=refund_id)


@transaction.atomic(durable=True)
def _release(refund_id: uuid.UUID, *, because: str, actor: str, as_of: datetime) -> None:
    current, account = settling.locked(refund_id)
    if current.state == State.REVIEW:
        settling.undo(current, because=because, account=account, as_of=as_of, actor=actor)
