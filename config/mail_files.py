"""Mails as .eml files, which any mail program opens: what happens until EMAIL_URL names a server."""

import os
import re
from collections.abc import Sequence
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
        """This will write each message; a file appears whole or not at all."""
        folder = Path(settings.EMAIL_FILE_PATH)
        folder.mkdir(parents=True, exist_ok=True)
        for email in email_messages:
            message = email.message()
            name = re.sub(r"[^0-9A-Za-z.@-]", "", str(message["Message-ID"]))
            half = folder / f".{name}.{os.getpid()}"
            half.write_bytes(message.as_bytes(linesep="\r\n"))
            half.replace(folder / f"{name}.eml")
        return len(email_messages)
