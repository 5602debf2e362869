"""Hold the providers' books against ours: exit 0 if they agree, 1 if there are breaks, 2 if it cannot be told."""

import json
import sys
import time
from argparse import ArgumentParser, ArgumentTypeError
from datetime import UTC, date, datetime
from datetime import time as clock_time
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from accounts import clock
from billing import gateways, reconciliation
from billing.management import progress_bar, tables
from billing.models import Reconciliation, ReconciliationBreak
from billing.money import money

# How often to look at one that another process has in hand.
LOOK_AGAIN_SECONDS = 1.0
STARTED_BY = "reconcile"


class Command(BaseCommand):
    """`manage.py reconcile --since 2018-10-01`"""

    help = (
        "Lists what the payment providers have, books what our database has lost, and notes what does"
        " not agree. Safe beside any clusters that run; a gateway that is paused after a restore opens."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--since",
            type=read_day,
            metavar="YYYY-MM-DD",
            help="what was made since that day (UTC)",
        )
        parser.add_argument("--gateway", help="this one; else all that are switched on")
        parser.add_argument("--json", action="store_true", help="print one JSON document")

    def handle(self, **options: Any) -> None:
        names = [_switched_on(options["gateway"])] if options["gateway"] else gateways.names()
        finished = [self._reconcile(name, options["since"]) for name in names]
        reconciliation.reopen_paused(as_of=clock.now())
        breaks = list(
            ReconciliationBreak.objects.filter(
                gateway__in=names, state=ReconciliationBreak.State.OPEN
            ).order_by("pk")
        )
        if options["json"]:
            self.stdout.write(json.dumps(document(finished, breaks), indent=2))
        else:
            self._tell(finished, breaks)
        if breaks:
            sys.exit(1)

    def _reconcile(self, name: str, since: datetime | None) -> Reconciliation:
        with progress_bar.bar(f"Reconciling {name}", unit="objects") as bar:
            while True:
                one = reconciliation.start(
                    gateway=name, started_by=STARTED_BY, as_of=clock.now(), since=since
                )
                self._finish(one, bar)
                # One that was running already may not go back as far as was asked for.
                if since is None or one.since is None or one.since <= since:
                    return one

    def _finish(self, one: Reconciliation, bar: progress_bar.Bar) -> None:
        while not one.is_finished:
            try:
                reconciliation.work(one, as_of=clock.now(), on_progress=bar.advance)
            except reconciliation.BeingWorkedOn:
                bar.say(f"Another process is reconciling {one.gateway}")
                time.sleep(LOOK_AGAIN_SECONDS)
            except Exception as error:
                raise CommandError(
                    f"{one.gateway} cannot be listed: {type(error).__name__}: {error}", returncode=2
                ) from error
            one.refresh_from_db()

    def _tell(self, finished: list[Reconciliation], breaks: list[ReconciliationBreak]) -> None:
        counted = [{"gateway": one.gateway, **one.counts} for one in finished]
        self.stdout.write(tables.text(with_all_columns(counted), none="There is no gateway."))
        payouts = [payout(row) for one in finished for row in one.payouts]
        if payouts:
            self.stdout.write(tables.text(payouts, none=""))
        for one in finished:
            if one.error:
                self.stdout.write(f"{one.gateway}: {one.error}")
        for each in breaks:
            self.stdout.write(f"{each}: {each.words}")
        self.stdout.write(f"reconcile: {len(breaks)} breaks open")


def _switched_on(name: str) -> str:
    """
    Return the name of a gateway that can be asked.

    :raises CommandError: if it cannot, with why.
    """
    try:
        return gateways.get(name).name
    except gateways.Misconfigured as error:
        raise CommandError(f"{name} cannot be listed: {error}", returncode=2) from error


def read_day(text: str) -> datetime:
    """
    The beginning of a day, UTC.

    :raises ArgumentTypeError: if it is no day.
    """
    try:
        return datetime.combine(date.fromisoformat(text), clock_time.min, UTC)
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is not a day: write it as 2018-10-01") from None


def document(finished: list[Reconciliation], breaks: list[ReconciliationBreak]) -> dict[str, Any]:
    """The answer for programs."""
    return {
        "gateways": [
            {
                "gateway": one.gateway,
                "since": one.since.isoformat() if one.since else None,
                "as_of": one.as_of.isoformat(),
                "counts": one.counts,
                "payouts": one.payouts,
                "error": one.error,
            }
            for one in finished
        ],
        "breaks": [
            {
                "kind": each.kind,
                "gateway": each.gateway,
                "provider_ref": each.provider_ref,
                "words": each.words,
                "amount_minor": each.amount_minor,
                "currency": each.currency,
                "owner": each.owner,
                "found_at": each.found_at.isoformat(),
            }
            for each in breaks
        ],
    }


def with_all_columns(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every count in every row, 0 where nothing was counted."""
    names = dict.fromkeys(name for row in rows for name in row)
    return [{name: row.get(name, 0) for name in names} for row in rows]


def payout(row: dict[str, Any]) -> dict[str, str]:
    """One payout for people, in major units."""
    settled = row["settled_currency"]
    return {
        "payout": row["payout"],
        "provider": money(row["provider_minor"], row["currency"]),
        "ledger": money(row["ledger_minor"], row["currency"]),
        "fee": money(row["fee_minor"], settled),
        "net": money(row["net_minor"], settled),
        "others": money(row["other_net_minor"], settled),
    }
