"""
The kinds of messages, and how each is rechecked just before it is sent.

The app that writes a kind registers it when that app is ready: this app knows no invoice. A recheck
gets many messages of its kind at once. It runs inside delivery's transaction, may lock and write rows
of its own app, and returns one verdict for each message, in their order.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeAlias

from notifications.models import Message


@dataclass(frozen=True, kw_only=True)
class Content:
    """What a message says, in which language, and the instant its numbers were true at."""

    locale: str
    time_zone: str
    subject: str
    body_text: str
    body_html: str
    # Whom it is from, by name; empty: the sender of all mail.
    sender_name: str = ""
    amounts: dict[str, Any]
    as_of: datetime


@dataclass(frozen=True)
class Keep:
    """The message is still true: send it as it is."""


@dataclass(frozen=True)
class Cancel:
    """The message is no longer true, or another one tells it better."""

    because: str


@dataclass(frozen=True)
class Rerender:
    """The message is worth sending, with new numbers."""

    content: Content
    because: str


@dataclass(frozen=True)
class Wait:
    """Whether the message is true depends on another one that is not at its end: ask again soon."""

    because: str


Verdict: TypeAlias = Keep | Cancel | Rerender | Wait
Recheck: TypeAlias = Callable[[Sequence[Message], datetime], Sequence[Verdict]]


class UnknownKind(LookupError):
    """No app has registered this kind of message."""


_RECHECKS: dict[str, Recheck | None] = {}


def register(kind: str, *, recheck: Recheck | None = None) -> None:
    """Register a kind. Without a recheck its messages stay true for ever, as a receipt does."""
    _RECHECKS[kind] = recheck


_PERSONAL: set[str] = set()


def keep_personal(*kinds: str) -> None:
    """
    Say that these kinds go to one person, and hold a link that is as good as their password.

    No copy goes to anybody else, and nobody on staff reads their text.
    """
    _PERSONAL.update(kinds)


def is_personal(kind: str) -> bool:
    """Whether a kind is for one person's eyes."""
    return kind in _PERSONAL


def recheck(messages: Sequence[Message], *, as_of: datetime) -> Sequence[Verdict]:
    """
    Ask whether messages, all of one kind, are still true.

    :raises UnknownKind: if no app has registered their kind.
    """
    ask = _RECHECKS[check(messages[0].kind)]
    return ask(messages, as_of) if ask else [Keep()] * len(messages)


def check(kind: str) -> str:
    """
    Return the kind if it is known.

    :raises UnknownKind: if it is not.
    """
    if kind not in _RECHECKS:
        raise UnknownKind(f"no message kind {kind!r}; there are {', '.join(sorted(_RECHECKS))}")
    return kind
