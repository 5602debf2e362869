"""What waits for each provider's lane, and what is in flight through it."""

from dataclasses import dataclass
from datetime import datetime

from django.db.models import Min
from django.db.models.functions import Now

from billing import step_kinds
from billing.models import Step
from billing.step_kinds import Through
from notifications.models import Message

# The lane of mails; all others are payment providers.
MAIL = "smtp"


@dataclass(frozen=True)
class Work:
    """The work of one lane: how much is leased, how much is due but not begun, and since when."""

    in_flight: int
    waiting: int
    oldest_at: datetime | None


def work_of(provider: str) -> Work:
    """Count the steps of the close, or the mails, that go through a lane."""
    if provider == MAIL:
        mails = Message.objects.filter(state=Message.State.QUEUED, next_attempt_at__lte=Now())
        sending = Message.objects.filter(state=Message.State.SENDING, lease_until__gt=Now())
        oldest = mails.aggregate(at=Min("next_attempt_at"))["at"]
        return Work(sending.count(), mails.count(), oldest)
    kinds = [each.kind for each in step_kinds.through(Through.CARD)]
    steps = Step.objects.filter(kind__in=kinds, provider=provider)
    due = steps.filter(state__in=Step.CLAIMABLE, run_at__lte=Now())
    running = steps.filter(state=Step.State.RUNNING, lease_until__gt=Now())
    return Work(running.count(), due.count(), due.aggregate(at=Min("run_at"))["at"])
