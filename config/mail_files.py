"""Mails as .eml files, which any mail program opens: what happens until EMAIL_URL names a server."""

import re
import uuid
from collections.abc import Sequence
from contextlib import suppress
from email.generator import BytesGenerator
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.mail import EmailMessage
from django.core.mail.backends.base import BaseEmailBackend


class EmlFileBackend(BaseEmailBackend):
    """Writes one file per Message-ID, so a mail that is sent again is still one file."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(fail_silently=bool(options.get("fail_silently")))

    def send_messages(self, email_messages: Sequence[EmailMessage]) -> int:
        """Write each message; a file appears whole or not at all."""
        written = 0
        with suppress(*([OSError] if self.fail_silently else [])):
            folder = Path(settings.EMAIL_FILE_PATH)
            folder.mkdir(parents=True, exist_ok=True)
            for email in email_messages:
                _write(email, folder)
                written += 1
        return written


def _write(email: EmailMessage, folder: Path) -> None:
    message = email.message()
    name = re.sub(r"[^0-9A-Za-z.@-]", "", str(message["Message-ID"]))
    half = folder / f".{name}.{uuid.uuid4().hex}"
    with half.open("wb") as file:
        BytesGenerator(file, mangle_from_=False).flatten(message, linesep="\r\n")
    half.replace(folder / f"{name}.eml")
