import uuid

from django.db import models
from django.db.models.functions import Now

from accounts.codes import spelled_out
from notifications.models.dispatched import Dispatched


class Message(Dispatched):
    """
    One message to one recipient about one fact, rendered when the fact was written down.

    Delivery rechecks it just before sending: it may be cancelled, or rendered anew, with the
    reason beside it. SMTP cannot be exactly-once; every try carries the same Message-ID.
    """

    class State(models.TextChoices):
        QUEUED = "QUEUED", "Queued"
        SENDING = (
            "SENDING",
            "Sending",
        )  # claimed by one worker; one whose claim has run out is claimed again
        SENT = "SENT", "Sent"
        CANCELLED = "CANCELLED", "Cancelled"  # the recheck found it no longer true
        DEAD = "DEAD", "Dead"  # gave up; listed, with a button to retry

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    account = models.ForeignKey(
        "accounts.Account", on_delete=models.PROTECT, related_name="messages"
    )
    # A kind of notifications/catalog.py: INVOICE, RECEIPT…
    kind = models.CharField(max_length=40)
    # The release before writes no queue.
    queue = models.CharField(max_length=50, default="email", db_default="email")
    # What it is about, e.g. "invoice:17". With the kind, unique: nobody is told the same thing twice.
    fact = models.CharField(max_length=100)
    recipient = models.EmailField()
    # Whom it is from, by name: its address is the one of all mail. Empty: that one's name.
    sender_name = models.CharField(max_length=200, blank=True, default="", db_default="")
    locale = models.CharField(max_length=10)
    time_zone = models.CharField(max_length=64)
    subject = models.CharField(max_length=300)
    body_text = models.TextField()
    body_html = models.TextField()
    # The numbers the bodies state, as strings with currency, and the instant they were true at.
    amounts = models.JSONField(default=dict)
    as_of = models.DateTimeField()

    state = models.CharField(max_length=10, choices=State, default=State.QUEUED)
    # Why it was cancelled, rendered anew or given up.
    because = models.CharField(max_length=300, blank=True)
    attempts = models.PositiveSmallIntegerField(default=0)
    next_attempt_at = models.DateTimeField(db_default=Now())
    last_error = models.TextField(blank=True)
    created_at = models.DateTimeField(db_default=Now())
    sent_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["kind", "fact"], name="one_message_per_kind_and_fact"),
            models.CheckConstraint(
                condition=models.Q(state="SENT", sent_at__isnull=False)
                | (~models.Q(state="SENT") & models.Q(sent_at__isnull=True)),
                name="sent_message_says_when",
            ),
        ]
        indexes = [
            models.Index(
                fields=["next_attempt_at", "created_at"],
                condition=models.Q(state__in=["QUEUED", "SENDING"]),
                name="messages_to_deliver",
            ),
            models.Index(
                "queue",
                models.F("priority").desc(),
                "next_attempt_at",
                "created_at",
                condition=models.Q(state__in=["QUEUED", "SENDING"]),
                name="messages_to_claim",
            ),
            # Few, and a person looks for them.
            models.Index(
                fields=["parked_at"],
                condition=models.Q(parked_at__isnull=False),
                name="messages_parked",
            ),
            models.Index(fields=["account", "-created_at"], name="messages_of_an_account"),
        ]

    def __str__(self) -> str:
        return f"{spelled_out(self.kind)} to {self.recipient}: {self.subject}"
