"""A mail server that keeps what it accepted in a file, and outlives whoever sent it."""

import json
from collections.abc import Sequence
from pathlib import Path

from django.conf import settings
from django.core.mail import EmailMessage
from django.core.mail.backends.base import BaseEmailBackend


class SinkBackend(BaseEmailBackend):
    """Appends one line for each mail accepted."""

    def send_messages(self, email_messages: Sequence[EmailMessage]) -> int:
        for email in email_messages:
            line = {
                "id": email.extra_headers["Message-ID"],
                "to": email.to,
                "subject": email.subject,
            }
            with Path(settings.MAIL_SINK).open("a") as sink:
                sink.write(json.dumps(line) + "\n")
        return len(email_messages)


def accepted(path: Path) -> list[dict[str, str]]:
    """What was accepted, in order."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
