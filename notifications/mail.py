"""
A message as a mail: for any of Django's mail backends or, much faster, as the bytes that SMTP sends.

Both have the same contents. Every try of a message has the same Message-ID.
"""

import re
from base64 import b64encode, encodebytes
from dataclasses import dataclass
from email.utils import format_datetime, formataddr, parseaddr
from functools import lru_cache

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.mail import EmailMultiAlternatives
from django.core.mail.message import sanitize_address
from django.core.validators import validate_email

from notifications.models import Message

# RFC 5322: what a line may have at most, without its end.
LINE_OCTETS = 998
# What is left of a line of 76 after "Subject: ", and of that after the brackets of RFC 2047.
SUBJECT_CHARACTERS = 66
WORD_OCTETS = 39
LINE_BREAK = re.compile("\r\n|[\r\n]")


class NotDeliverable(Exception):
    """This message can never be delivered as it is; trying again would change nothing."""


@dataclass(frozen=True)
class Mail:
    """Sender, recipient, and the text with its headers, in SMTP's line ends."""

    sender: str
    recipient: str
    content: bytes


def message_id(message: Message) -> str:
    """The Message-ID of every try of this message."""
    return f"<{message.pk}@{_sender(settings.DEFAULT_FROM_EMAIL)[1].rpartition('@')[2]}>"


def composed(message: Message) -> EmailMultiAlternatives:
    """
    Make what Django's mail backends send.

    :raises NotDeliverable: if the address is none, or a header has a line break.
    """
    _check(message)
    email = EmailMultiAlternatives(
        subject=message.subject,
        body=message.body_text,
        from_email=_from(message),
        to=[message.recipient],
        headers=_headers(message),
    )
    email.attach_alternative(message.body_html, "text/html")
    return email


def as_bytes(message: Message) -> Mail:
    """
    Make what SMTP sends.

    :raises NotDeliverable: if the address is none, or a header has a line break.
    """
    _check(message)
    header_from, sender = _sender(_from(message))
    header_to, recipient = _address(message.recipient)
    boundary = f"=_{message.pk.hex}"
    headers = {
        "Content-Type": f'multipart/alternative; boundary="{boundary}"',
        "MIME-Version": "1.0",
        "Subject": _words(message.subject),
        "From": header_from,
        "To": header_to,
        **_headers(message),
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode("ascii")
    dashes = f"--{boundary}".encode()
    plain = _part("plain", message.body_text)
    html = _part("html", message.body_html)
    content = b"%b\r\n%b\r\n%b\r\n%b\r\n%b\r\n%b--\r\n" % (
        head,
        dashes,
        plain,
        dashes,
        html,
        dashes,
    )
    return Mail(sender, recipient, content)


def _headers(message: Message) -> dict[str, str]:
    return {
        "Message-ID": message_id(message),
        "Date": format_datetime(message.created_at),
        "Auto-Submitted": "auto-generated",
        "Content-Language": message.locale,
    }


def _check(message: Message) -> None:
    try:
        validate_email(message.recipient)
    except ValidationError as error:
        raise NotDeliverable(f"{message.recipient!r} is no email address") from error
    for header in (message.subject, message.locale, message.sender_name):
        if LINE_BREAK.search(header):
            raise NotDeliverable(f"a header must not have a line break: {header!r}")


def _from(message: Message) -> str:
    """The sender of all mail, by the name of the seller whose message it is."""
    sender = settings.DEFAULT_FROM_EMAIL
    if not message.sender_name:
        return str(sender)
    return formataddr((message.sender_name, _sender(sender)[1]))


@lru_cache(maxsize=64)
def _sender(default_from: str) -> tuple[str, str]:
    """The sender as the header has it, and the bare address."""
    header = sanitize_address(default_from, "utf-8")
    return header, parseaddr(header)[1]


def _address(address: str) -> tuple[str, str]:
    """The same of the recipient; an address beyond ASCII is encoded as mail servers read it."""
    if address.isascii():
        return address, address
    header = sanitize_address(address, "utf-8")
    return header, parseaddr(header)[1]


def _words(subject: str) -> str:
    """A header's words as they are, if they are ASCII and fit on its line; else encoded by RFC 2047."""
    if subject.isascii() and len(subject) <= SUBJECT_CHARACTERS and "=?" not in subject:
        return subject
    words, word = [], b""
    for character in subject:
        octets = character.encode()
        if len(word) + len(octets) > WORD_OCTETS:
            words.append(word)
            word = b""
        word += octets
    return "\r\n ".join(f"=?utf-8?b?{b64encode(each).decode()}?=" for each in [*words, word])


def _part(kind: str, text: str) -> bytes:
    octets = LINE_BREAK.sub("\r\n", text).encode()
    encoding = b"8bit"
    if any(len(line) > LINE_OCTETS for line in octets.split(b"\r\n")):
        octets = encodebytes(octets).replace(b"\n", b"\r\n")
        encoding = b"base64"
    head = b'Content-Type: text/%b; charset="utf-8"\r\nContent-Transfer-Encoding: %b\r\n'
    return (head + b"\r\n%b") % (kind.encode(), encoding, octets)
