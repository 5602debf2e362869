"""The attempts that messages are about, read together."""

import uuid
from collections.abc import Mapping, Sequence

from billing.messages.rechecks import subject
from billing.models import PaymentAttempt
from notifications.models import Message


def attempts_of(messages: Sequence[Message]) -> dict[uuid.UUID, PaymentAttempt]:
    """By id, with their cards."""
    ids = [uuid.UUID(subject(message)) for message in messages]
    return PaymentAttempt.objects.select_related("payment_method").in_bulk(ids)


def attempt_of(message: Message, attempts: Mapping[uuid.UUID, PaymentAttempt]) -> PaymentAttempt:
    """The one that a message is about."""
    return attempts[uuid.UUID(subject(message))]
