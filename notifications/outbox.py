"""Write messages down, rendered, in the transaction of the fact they tell."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from django.template import Context, Engine
from django.utils import timezone, translation

from accounts.models import Account
from notifications import catalog
from notifications.catalog import Content
from notifications.formats import Reader
from notifications.models import Message

SUBJECT_LENGTH = 300


class NoRecipient(Exception):
    """The account has no email address: there is nobody to write to."""

    def __init__(self, account: Account) -> None:
        super().__init__(f"{account} has no email address")
        self.account = account


def enqueue(
    *,
    account: Account,
    kind: str,
    fact: str,
    context: Mapping[str, Any],
    amounts: dict[str, Any],
    as_of: datetime,
) -> Message | None:
    """
    This will write a message in the caller's transaction; None if this fact is told already.

    The context holds plain values, formatted for the account's reader (formats.Reader.of).

    :raises NoRecipient: if the account has no email address; nothing is written.
    :raises UnknownKind: if no app has registered the kind.
    """
    catalog.check(kind)
    if not account.email:
        raise NoRecipient(account)
    content = render(account=account, kind=kind, context=context, amounts=amounts, as_of=as_of)
    return _insert(
        Message(account=account, kind=kind, fact=fact, recipient=account.email, **vars(content))
    )


def render(
    *,
    account: Account,
    kind: str,
    context: Mapping[str, Any],
    amounts: dict[str, Any],
    as_of: datetime,
) -> Content:
    """This will render a kind's templates in the account's language and time zone."""
    reader = Reader.of(account)
    values = {
        **context,
        "locale": reader.locale,
        "account_name": account.name,
        "entity_name": account.entity.name,
    }
    name = f"emails/{kind.lower()}"
    with translation.override(reader.locale), timezone.override(reader.time_zone):
        return Content(
            locale=reader.locale,
            time_zone=reader.time_zone,
            subject=_one_line(_render(f"{name}.subject.txt", values, escape=False)),
            body_text=_render(f"{name}.txt", values, escape=False),
            body_html=_render(f"{name}.html", values, escape=True),
            amounts=amounts,
            as_of=as_of,
        )


def _render(template: str, values: dict[str, Any], *, escape: bool) -> str:
    # Escaping goes by the medium, here, so that no template can forget it.
    page = Engine.get_default().get_template(template)
    return page.render(Context(values, autoescape=escape)).strip() + "\n"


def _one_line(subject: str) -> str:
    """A subject is a header: a line break in a name must not begin another one."""
    lines = (line.strip() for line in subject.splitlines())
    return " ".join(line for line in lines if line)[:SUBJECT_LENGTH]


def _insert(message: Message) -> Message | None:
    # ON CONFLICT DO NOTHING: another worker's row ends here quietly, and the caller's transaction lives.
    Message.objects.bulk_create([message], ignore_conflicts=True)
    return Message.objects.filter(pk=message.pk).first()
