"""
Who is billed, and what the seed says will come of it. `python -m tests.hosts.world ACT …` on a host:

`build SEED N FOLDER`, `start`, `hold_a_lock`, `judge SEED N`.
"""

import json
import random
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import django

CURRENCIES = {"EUR": 2, "USD": 2, "JPY": 0}
# Of a hundred accounts so many have this card; None: none.
CARDS: dict[str | None, int] = {
    "visa": 80,
    "visa_chargeDeclinedInsufficientFunds": 8,
    "visa_chargeDeclinedLostCard": 4,
    None: 8,
}
PAYS = "visa"


@dataclass(frozen=True)
class Customer:
    """One account, its only usage, and its card."""

    name: str
    currency: str
    minor: int
    card: str | None


def customers(seed: int, count: int) -> list[Customer]:
    """The same from the same seed."""
    rng = random.Random(seed)
    cards, weights = list(CARDS), list(CARDS.values())
    return [
        Customer(
            f"host-{number:05d}",
            rng.choice(list(CURRENCIES)),
            rng.randrange(500, 50_000),
            rng.choices(cards, weights)[0],
        )
        for number in range(count)
    ]


def month() -> date:
    """The last one: the sweeper would start its close too, and it is the same run."""
    return (datetime.now(UTC).date().replace(day=1) - timedelta(days=1)).replace(day=1)


# --- acts


def build(seed: str, count: str, folder: str) -> None:
    """The accounts, a usage file that goes through the importer, and their cards at the provider."""
    from django.core.management import call_command

    from accounts.models import Account, BillingEntity
    from billing.demo import charging
    from billing.demo.charging import Card

    call_command("migrate", verbosity=0)
    who = customers(int(seed), int(count))
    entity, _ = BillingEntity.objects.update_or_create(
        slug="default", defaults={"name": "Hosts", "invoice_prefix": "H"}
    )
    accounts = Account.objects.bulk_create(
        Account(
            entity=entity,
            external_id=each.name,
            name=each.name,
            currency=each.currency,
            email=f"{each.name}@example.com",
        )
        for each in who
    )
    usage = Path(folder) / "usage.csv"
    lines = ["event_id,account,product,unit,quantity,unit_price,starts_at"]
    for each in who:
        amount = each.minor / 10 ** CURRENCIES[each.currency]
        lines.append(f"e-{each.name},{each.name},server,month,1,{amount},{month()}T12:00:00Z")
    usage.write_text("\n".join(lines) + "\n")
    call_command("import_usage", str(usage), "--format", "csv", "--json")
    charging.save(
        [
            (account, Card(each.card, "Visa", "4242") if each.card != PAYS else charging.PAYS)
            for account, each in zip(accounts, who, strict=True)
            if each.card
        ]
    )


def start() -> None:
    """Begin the close, as the button does."""
    from django.utils import timezone

    from accounts.models import BillingEntity
    from billing.close import runs

    runs.start(
        entity=BillingEntity.objects.get(),
        month=month(),
        started_by="tests.hosts",
        as_of=timezone.now(),
    )


def hold_a_lock() -> None:
    """Lock the last account, as a step that charges it would, and stay there."""
    from django.db import Error, transaction

    from accounts.models import Account
    from billing import locks

    last = Account.objects.order_by("pk").last()
    assert last is not None
    # The server ends the session in the middle of it, which is what is looked at.
    with suppress(Error), transaction.atomic():
        locks.accounts_for_update({last.pk})
        print("locked", flush=True)
        time.sleep(3600)


def judge(seed: str, count: str) -> None:
    """Print what came of it, as one JSON document; and what is wrong with it, in words."""
    from django.utils import timezone

    from billing import books
    from billing.models import CloseRun
    from billing.reports import finance, hosts, progress

    run = CloseRun.objects.get()
    answer = finance.answer(run, as_of=timezone.now())
    outcome = {
        "state": run.state,
        "steps": {kind: _comparable(kind, states) for kind, states in progress.steps(run).items()},
        "money": answer["currencies"],
        "accounts": _by_account(),
    }
    print(
        json.dumps(
            {
                "outcome": outcome,
                "violations": [
                    *_against_the_seed(customers(int(seed), int(count))),
                    *_against_the_provider(),
                    *_against_what_hosts_did(),
                    *(
                        f"{finding.promise.sentence} ({finding.count}): {finding.rows[:3]}"
                        for finding in books.check(as_of=timezone.now())
                    ),
                ],
                "seconds": (run.finished_at - run.started_at).total_seconds()
                if run.finished_at
                else None,
                "hosts": hosts.worked(run),
            },
            default=str,
        )
    )


def _comparable(kind: str, states: dict[str, int]) -> dict[str, int]:
    """
    Where two runs may differ, they say one word: who is charged before the invoice mail is written gets
    the receipt alone, and a charge whose worker died may be settled by the sweeper before the step is.
    """
    if kind not in {"EMAIL", "CHARGE"}:
        return states
    told = states.get("DONE", 0) + states.get("SKIPPED", 0)
    others = {state: count for state, count in states.items() if state not in {"DONE", "SKIPPED"}}
    return others | {"DONE OR SKIPPED": told}


def _by_account() -> dict[str, list[Any]]:
    """Per account what is due, paid, mailed and held: words and numbers that two runs share."""
    from django.db.models import Sum
    from django.utils import timezone

    from accounts.models import Account
    from billing import ledger
    from billing.models import Payment
    from notifications.models import Message

    now = timezone.now()
    sums = Payment.objects.order_by().values_list("account").annotate(Sum("amount_minor"))
    paid = Counter(dict(sums))
    mails: dict[int, list[str]] = {}
    # See _comparable for the invoice's mail.
    others = Message.objects.exclude(kind="INVOICE").order_by("kind", "fact")
    for pk, kind, state in others.values_list("account", "kind", "state"):
        mails.setdefault(pk, []).append(f"{kind} {state}")
    return {
        account.external_id: [
            ledger.standing(account.pk, as_of=now).due_minor,
            paid[account.pk],
            mails.get(account.pk, []),
            account.holds.filter(lifted_at=None).count(),
        ]
        for account in Account.objects.order_by("pk")
    }


def _against_the_seed(who: list[Customer]) -> list[str]:
    """Who can pay has paid what they used, once; who cannot has not; everybody has an invoice."""
    from billing.models import Invoice, Payment

    invoiced = dict(Invoice.objects.values_list("account__external_id", "total_minor"))
    paid: dict[str, list[int]] = {}
    for name, minor in Payment.objects.values_list("account__external_id", "amount_minor"):
        paid.setdefault(name, []).append(minor)
    return [
        f"{each.name}: invoiced {invoiced.get(each.name)}, paid {paid.get(each.name, [])},"
        f" and should be {each}"
        for each in who
        if invoiced.get(each.name) != each.minor
        or paid.get(each.name, []) != ([each.minor] if each.card == PAYS else [])
    ]


def _against_the_provider() -> list[str]:
    """Its own book is what it took; ours has to say the same, and nobody is in it twice."""
    from billing import gateways
    from billing.gateways import Status
    from billing.models import Payment, PaymentAttempt

    taken = [s for s in gateways.get("stripe").book() if s.status is Status.SUCCEEDED]
    whose = {
        str(pk): name
        for pk, name in PaymentAttempt.objects.values_list("pk", "account__external_id")
    }
    times = Counter(whose.get(seen.own_reference, "nobody") for seen in taken)
    ours = set(Payment.objects.values_list("provider_ref", "amount_minor"))
    theirs = {(seen.ref, seen.amount_minor) for seen in taken}
    return [
        *(f"{name} was charged {count} times" for name, count in times.items() if count > 1),
        *(f"taken and not booked: {each}" for each in theirs - ours),
        *(f"booked and not taken: {each}" for each in ours - theirs),
    ]


def _against_what_hosts_did() -> list[str]:
    """What the hosts have counted is every step, once: also those of a host that died."""
    from django.db.models import Sum

    from billing.models import Contribution, Step

    counted = Contribution.objects.aggregate(all=Sum("steps"))["all"]
    ended = Step.objects.exclude(state__in=Step.OPEN).count()
    return [] if counted == ended else [f"hosts say they ended {counted} steps, and {ended} have"]


if __name__ == "__main__":
    django.setup()
    globals()[sys.argv[1]](*sys.argv[2:])
