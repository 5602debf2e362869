"""What all rechecks share: they lock the account, read what it owes, and decide about the message."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, TypeAlias

from accounts.models import Account
from billing import decisions, ledger, locks
from billing.ledger import Standing
from billing.models import Decision
from notifications import catalog, outbox
from notifications.catalog import Cancel, Keep, Rerender, Verdict
from notifications.models import Message
from notifications.outbox import Letter

# A message, its locked account, and what the account owes now.
Looked: TypeAlias = tuple[Message, Account, Standing]


def one_by_one(judge: Callable[[Looked, datetime], Verdict]) -> catalog.Recheck:
    """Make a recheck of a batch from one of a single message: lock all accounts at once, then judge each."""

    def recheck(messages: Sequence[Message], as_of: datetime) -> list[Verdict]:
        return [judge(looked, as_of) for looked in look(messages, as_of=as_of)]

    return recheck


def look(messages: Sequence[Message], *, as_of: datetime) -> list[Looked]:
    """Lock the messages' accounts, and return each message with its account and what that owes now."""
    accounts = locks.accounts_for_update({message.account_id for message in messages})
    standings = ledger.standings(accounts, as_of=as_of)
    return [(m, accounts[m.account_id], standings[m.account_id]) for m in messages]


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
    """Keep a message that states the right balance; else render it anew, and write that down."""
    if standing.due_minor == stated(message):
        return Keep()
    because = "the balance had changed: rendered anew"
    _decide(message, standing, did=Decision.Did.DONE, because=because, **links)
    return Rerender(outbox.render(again()), because)


def keep_if_the_same(message: Message, standing: Standing, anew: Letter) -> Verdict:
    """Keep a message that states what a letter of now would; else say that instead, and write that down."""
    if anew.amounts == message.amounts:
        return Keep()
    because = "what it says had changed: rendered anew"
    _decide(message, standing, did=Decision.Did.DONE, because=because)
    return Rerender(outbox.render(anew), because)


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
