"""Write messages down, rendered, in the transaction of the fact they tell."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import connection

from accounts.models import Account
from notifications import catalog, rendering
from notifications.catalog import Content
from notifications.formats import Reader
from notifications.models import Message


class NoRecipient(Exception):
    """The account has no email address: there is nobody to write to."""

    def __init__(self, account: Account) -> None:
        super().__init__(f"{account} has no email address")
        self.account = account


@dataclass(frozen=True, kw_only=True)
class Letter:
    """
    What is to be told to whom, not yet in words.

    The context holds plain values, formatted for the account's reader (formats.Reader.of).
    """

    account: Account
    kind: str
    fact: str
    context: Mapping[str, Any]
    amounts: dict[str, Any]
    as_of: datetime
    # Of a personal kind: whom it is for. Empty: the account's address, and its billing contacts.
    recipient: str = ""


def enqueue_all(letters: Sequence[Letter]) -> list[Message | None]:
    """
    Write messages in the caller's transaction, and return them in order; None if a fact is told already.

    :raises NoRecipient: if an account has no email address; nothing is written.
    :raises UnknownKind: if no app has registered a kind.
    """
    return _insert([_message(letter) for letter in letters])


# Before the number of the billing contact, at the end of the fact of its copy.
COPY = ":to:"


def is_to_the_account(message: Message) -> bool:
    """Whether it goes to the account's own address, whatever that is by now."""
    return COPY not in message.fact and not catalog.is_personal(message.kind)


def _message(letter: Letter) -> Message:
    catalog.check(letter.kind)
    recipient = letter.recipient or letter.account.email
    if not recipient:
        raise NoRecipient(letter.account)
    return Message(
        account=letter.account,
        kind=letter.kind,
        fact=letter.fact,
        recipient=recipient,
        **vars(render(letter)),
    )


def render(letter: Letter) -> Content:
    """Render a kind's templates in the account's language."""
    reader = Reader.of(letter.account)
    seller = letter.account.entity.seller
    said = rendering.render(
        letter.kind,
        locale=reader.locale,
        context={
            **letter.context,
            "locale": reader.locale,
            "account_name": letter.account.name,
            "entity_name": seller["name"],
            "seller_logo": seller["logo"],
            "seller_help": seller["help"],
        },
    )
    return Content(
        locale=reader.locale,
        time_zone=reader.time_zone,
        **vars(said),
        sender_name=letter.account.entity.display_name,
        amounts=letter.amounts,
        as_of=letter.as_of,
    )


def _insert(messages: list[Message]) -> list[Message | None]:
    columns = {name: [getattr(each, name) for each in messages] for name in WRITTEN_AS_THEY_ARE}
    with connection.cursor() as cursor:
        cursor.execute(
            INSERT,
            {
                **columns,
                "id": [str(message.pk) for message in messages],
                "amounts": [json.dumps(message.amounts) for message in messages],
                "copied": [not catalog.is_personal(message.kind) for message in messages],
                "copy": COPY,
            },
        )
        when = {UUID(str(pk)): times for pk, *times in cursor.fetchall()}
    for message in messages:
        if message.pk in when:
            message.created_at, message.next_attempt_at = when[message.pk]
    return [message if message.pk in when else None for message in messages]


WRITTEN_AS_THEY_ARE = (
    "account_id", "kind", "fact", "recipient", "sender_name", "locale", "time_zone", "subject", "body_text",
    "body_html", "as_of",
)  # fmt: skip
# By hand: Django looks at each value of each row, which takes it longer than all else here together.
# ON CONFLICT DO NOTHING: another worker's row ends here quietly, and the caller's transaction lives.
#
# Each billing contact has a message of its own, since one address may fail alone; its fact ends in whom it is
# for, so that each is told once.
INSERT = """
WITH said AS (
    SELECT * FROM unnest(%(id)s::uuid[], %(account_id)s::bigint[], %(kind)s::text[], %(fact)s::text[],
                         %(recipient)s::text[], %(sender_name)s::text[], %(locale)s::text[], %(time_zone)s::text[], %(subject)s::text[],
                         %(body_text)s::text[], %(body_html)s::text[], %(amounts)s::jsonb[], %(as_of)s::timestamptz[],
                         %(copied)s::boolean[])
        AS m(id, account_id, kind, fact, recipient, sender_name, locale, time_zone, subject, body_text, body_html, amounts, as_of,
             copied)
)
INSERT INTO notifications_message
       (id, account_id, kind, fact, recipient, sender_name, locale, time_zone, subject, body_text, body_html, amounts, as_of,
        state, because, attempts, last_error)
SELECT id, account_id, kind, fact, recipient, sender_name, locale, time_zone, subject, body_text, body_html, amounts, as_of,
       'QUEUED', '', 0, ''
  FROM said
 UNION ALL
SELECT gen_random_uuid(), m.account_id, kind, fact || %(copy)s || c.id, c.email, sender_name, locale, time_zone, subject, body_text,
       body_html, amounts, as_of, 'QUEUED', '', 0, ''
  FROM said m JOIN accounts_billingcontact c ON c.account_id = m.account_id
 WHERE m.copied
    ON CONFLICT DO NOTHING
RETURNING id, created_at, next_attempt_at
"""
