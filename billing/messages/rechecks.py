"""
What all rechecks share: they lock the accounts, read what these owe, and decide about each message.

A message is true if it says, word for word, what it would say now. So nothing that a letter says can be
forgotten by its recheck: whatever changes a word has it rendered anew.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, TypeAlias

from django.db.models import prefetch_related_objects

from accounts.models import Account
from billing import decisions, ledger, locks
from billing.ledger import Standing
from billing.messages.prospects import Prospect, prospects
from billing.models import Decision
from notifications import catalog, outbox
from notifications.catalog import Cancel, Keep, Rerender, Verdict
from notifications.formats import Reader
from notifications.models import Message
from notifications.outbox import Letter

# A message, its locked account, and what the account owes now.
Looked: TypeAlias = tuple[Message, Account, Standing]

# What a message says: where all of it is the same, it is as true as it was.
SAID = ("locale", "subject", "body_text", "body_html")


def one_by_one(judge: Callable[[Looked, datetime], Verdict]) -> catalog.Recheck:
    """Make a recheck of a batch from one of a single message: lock all accounts at once, then judge each."""

    def recheck(messages: Sequence[Message], as_of: datetime) -> list[Verdict]:
        return [judge(looked, as_of) for looked in look(messages, as_of=as_of)]

    return recheck


def look(messages: Sequence[Message], *, as_of: datetime) -> list[Looked]:
    """Lock the messages' accounts, and return each message with its account and what that owes now."""
    accounts = locks.accounts_for_update({message.account_id for message in messages})
    prefetch_related_objects([*accounts.values()], "entity")
    standings = ledger.standings(accounts, as_of=as_of)
    return [(m, accounts[m.account_id], standings[m.account_id]) for m in messages]


def look_ahead(looked: Sequence[Looked], *, as_of: datetime) -> dict[int, Prospect]:
    """What happens next to what these accounts owe, by account."""
    return prospects(
        {account.pk: account for _message, account, _standing in looked},
        {account.pk: standing for _message, account, standing in looked},
        as_of=as_of,
    )


def subject(message: Message) -> str:
    """The key in a fact: "17" of "hold:17:placed"."""
    return message.fact.split(":")[1]


def stated(message: Message) -> int:
    """The balance that a message states, in minor units."""
    return int(message.amounts["due_minor"])


def cancel(message: Message, standing: Standing, *, because: str, **links: Any) -> Cancel:
    """Cancel a message, and write down why."""
    _decide(message, standing, did=Decision.Did.SKIPPED, because=because, **links)
    return Cancel(because)


def keep_or_rerender(
    message: Message, standing: Standing, again: Callable[[], Letter], **links: Any
) -> Verdict:
    """Keep a message that says what it would say now; else render it anew, and write that down."""
    letter = again()
    if _says_the_same(message, letter):
        return Keep()
    what = "the balance" if standing.due_minor != stated(message) else "what it says"
    because = f"{what} had changed: rendered anew"
    _decide(message, standing, did=Decision.Did.DONE, because=because, **links)
    return Rerender(outbox.render(letter), because)


def _says_the_same(message: Message, letter: Letter) -> bool:
    """Whether a message says what its letter says now, but for the instant."""
    as_of = Reader.of(letter.account).instant(message.as_of)
    said = outbox.render(replace(letter, context={**letter.context, "as_of": as_of}))
    return all(getattr(said, name) == getattr(message, name) for name in SAID)


def _decide(message: Message, standing: Standing, *, did: str, because: str, **links: Any) -> None:
    decisions.record(
        decisions.decision(
            act="EMAIL",
            did=did,
            because=because,
            account_id=message.account_id,
            expected={
                **message.amounts,
                "as_of": message.as_of.isoformat(),
                "message": f"{message.kind} {message.fact}",
            },
            saw=standing.facts,
            world_changed=True,
            **links,
        )
    )
