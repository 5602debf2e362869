"""What must be true when the storm is over, and what is still to be done before one may ask."""

import uuid
from collections import Counter

from django.conf import settings
from django.db.models import F, Sum
from django.utils import timezone

from billing import books, gateways
from billing.gateways import RefundSeen, RefundStatus, Status
from billing.models import (
    CloseRun,
    CreditGrant,
    Invoice,
    Payment,
    PaymentAttempt,
    Refund,
    Step,
    UsageBatch,
    UsageEvent,
)
from notifications.mail import message_id
from notifications.models import Message
from tests.crashes.sweep.mail_sink import accepted
from tests.storm.world import Journal


def left_undone() -> dict[str, int]:
    """What nobody has come round to yet; empty: all is quiet."""
    counts = {
        "open steps": Step.objects.filter(state__in=Step.OPEN).count(),
        "unfinished runs": CloseRun.objects.exclude(state=CloseRun.State.FINISHED).count(),
        "attempts in flight": PaymentAttempt.objects.filter(
            state__in=PaymentAttempt.IN_FLIGHT
        ).count(),
        # One in review is at its end by itself: a person looks, and it blocks no other payment.
        "refunds on their way": Refund.objects.filter(state__in=Refund.IN_FLIGHT)
        .exclude(state=Refund.State.REVIEW)
        .count(),
        "messages": Message.objects.filter(state__in=["QUEUED", "SENDING"]).count(),
        "batches": UsageBatch.objects.filter(tallied_at=None).count(),
    }
    return {name: count for name, count in counts.items() if count}


def violations() -> list[str]:
    """All that is wrong, in words."""
    return [
        *(
            f"{finding.promise.sentence} ({finding.count}): {finding.rows[:3]}"
            for finding in books.check(as_of=timezone.now())
        ),
        *_seen_during_the_storm(),
        *_dead(),
        *_against_the_providers(),
        *_against_what_was_invoiced(),
        *_against_the_journal(),
        *_against_the_mail_server(),
    ]


def volume() -> dict[str, int]:
    """How much there was to get wrong."""
    return {
        "runs closed": CloseRun.objects.filter(state=CloseRun.State.FINISHED).count(),
        "invoices": Invoice.objects.count(),
        "payments by card": Payment.objects.filter(gateway="sandbox").count(),
        "payments by Stripe's protocol": Payment.objects.filter(gateway="stripe").count(),
        "payments by bank": Payment.objects.filter(gateway="manual").count(),
        "attempts": PaymentAttempt.objects.count(),
        "refunds": Refund.objects.filter(state=Refund.State.SUCCEEDED).count(),
        "refunds left to a person": Refund.objects.filter(state=Refund.State.REVIEW).count(),
        "usage events": UsageEvent.objects.count(),
        "mails": Message.objects.filter(state="SENT").count(),
    }


def _seen_during_the_storm() -> list[str]:
    path = settings.STORM_FOLDER / "violations"
    return path.read_text().splitlines() if path.exists() else []


def _dead() -> list[str]:
    """Given up and left to a person: it did not finish by itself."""
    steps = Step.objects.filter(state__in=[Step.State.DEAD, Step.State.BLOCKED])
    messages = Message.objects.filter(state=Message.State.DEAD)
    return [
        *(f"{step} is {step.state}: {step.because} {step.last_error}" for step in steps),
        *(f"{message} is dead: {message.last_error}" for message in messages),
    ]


def _against_the_providers() -> list[str]:
    return [each for name in gateways.names() for each in _against(name)]


def _against(gateway: str) -> list[str]:
    return [*_taken(gateway), *_paid_back(gateway)]


def _paid_back(gateway: str) -> list[str]:
    if not gateways.get(gateway).capabilities.takes_refunds:
        return []
    theirs = [seen for seen in gateways.get(gateway).refunds() if isinstance(seen, RefundSeen)]
    seen = {
        (each.ref, each.amount_minor) for each in theirs if each.status is RefundStatus.SUCCEEDED
    }
    ours = Refund.objects.filter(gateway=gateway, state=Refund.State.SUCCEEDED)
    booked = set(ours.values_list("provider_ref", "amount_minor"))
    by_refund = Counter(each.own_reference for each in theirs)
    return [
        *(f"{gateway}: paid back and not booked: {lost}" for lost in seen - booked),
        *(f"{gateway}: booked and not paid back: {phantom}" for phantom in booked - seen),
        *(f"refund {own} paid {times} times" for own, times in by_refund.items() if times > 1),
    ]


def _taken(gateway: str) -> list[str]:
    seen = list(gateways.get(gateway).book())
    successes = [each for each in seen if each.status is Status.SUCCEEDED]
    taken = {(each.ref, each.amount_minor) for each in successes}
    booked = set(
        Payment.objects.filter(gateway=gateway).values_list("provider_ref", "amount_minor")
    )
    by_attempt = Counter(each.own_reference for each in successes)
    return [
        *(f"{gateway}: taken and not booked: {lost}" for lost in taken - booked),
        *(f"{gateway}: booked and not taken: {phantom}" for phantom in booked - taken),
        *(f"attempt {own} taken {times} times" for own, times in by_attempt.items() if times > 1),
    ]


def _against_what_was_invoiced() -> list[str]:
    """Every charge was of something owed then, so all of them together are never more than all invoices."""
    owed = _sums(Invoice.objects.filter(state="ISSUED"), "total_minor")
    taken = _sums(Payment.objects.exclude(gateway="manual"), "amount_minor")
    return [
        f"account {account} was charged {minor}, and invoiced {owed.get(account, 0)}"
        for account, minor in taken.items()
        if minor > owed.get(account, 0)
    ]


def _sums(rows, what: str) -> dict[int, int]:
    return dict(rows.order_by().values_list("account").annotate(Sum(what)))


def _against_the_journal() -> list[str]:
    journal = Journal()
    payments = dict(Payment.objects.values_list("provider_ref", "amount_minor"))
    paid_back = dict(Refund.objects.values_list("token", "amount_minor"))
    grants = dict(CreditGrant.objects.values_list("token", "amount_minor"))
    events = Counter(
        UsageEvent.objects.annotate(minor=F("quantity") * F("unit_price") * 100).values_list(
            "event_id", "account__external_id", "minor"
        )
    )
    months = set(CloseRun.objects.values_list("month", flat=True))
    wrong = [
        f"acknowledged, and not there: {entry}"
        for what, is_there in (
            ("payment", lambda e: payments.get(e["token"]) == e["minor"]),
            ("credit", lambda e: grants.get(uuid.UUID(e["token"])) == e["minor"]),
            ("refund", lambda e: paid_back.get(uuid.UUID(e["token"])) == e["minor"]),
            ("close", lambda e: e["month"] in {str(month) for month in months}),
        )
        for entry in journal.read(what)
        if not is_there(entry)
    ]
    for entry in journal.read("usage"):
        for event, (account, minor) in entry["events"].items():
            if (times := events[event, account, minor]) != 1:
                wrong.append(f"usage event {event} of {account} is there {times} times")
    return wrong


def _against_the_mail_server() -> list[str]:
    ids = {mail["id"] for mail in accepted(settings.MAIL_SINK)}
    messages = {message_id(message): message for message in Message.objects.all()}
    return [
        *(f"accepted, and unknown to us: {stray}" for stray in ids - messages.keys()),
        *(
            f"said to be sent, never accepted: {message}"
            for each, message in messages.items()
            if message.state == "SENT" and each not in ids
        ),
    ]
