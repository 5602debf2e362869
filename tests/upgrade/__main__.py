"""`python -m tests.upgrade`: see the package. Exit code 1 where anything is off, 2 where it cannot be run here."""

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import django
import psutil
from django.conf import settings

from tests.hosts.network import CannotRun
from tests.hosts.stage import last_words
from tests.upgrade import outside, people, revision
from tests.upgrade.installation import (
    LATENCY_SECONDS,
    MET_THE_MIGRATION,
    ROOT,
    Failed,
    Installation,
    as_json,
)
from tests.upgrade.people import Customer

CANNOT_RUN = "This cannot run"
# How long all charges would take, at the rate that the lanes are set to: slow while the world does something,
# which takes longer on a busy machine; fast when only time has to pass.
SLOW_SECONDS, FAST_SECONDS = 600, 40
BEGIN_BETWEEN, BEGIN_LATEST = (0.2, 0.4), 0.6
# From then on the new code is alone.
OLD_LEAVES_AT = 0.9
# At the killed cluster's providers, at least; both clusters have theirs in about equal parts.
IN_HAND = 6
SETTLE_SECONDS = 120
LEAVE_SECONDS = 30
LANES = ("default", "charge", "email")
# A run from its start to its report: invoices, charges, mails, holds, the report.
ROUNDS = ("default", "charge", "email", "default", "default")
SECOND, SECOND_COUNT = "second", 8
MORE_ROUNDS = 20


@dataclass
class Play:
    """What is played, and what was seen of it."""

    installation: Installation
    rng: random.Random
    who: list[Customer]
    seen: dict[str, Any] = field(default_factory=dict)
    by_transfer: set[str] = field(default_factory=set)
    doorbells: dict[str, str] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    def must(self, what: str, *, be: object) -> None:
        """What did not happen proves nothing."""
        if not be:
            self.wrong.append(f"it proves nothing: {what}")


def main() -> int:
    options = _options()
    # A kill from outside must not leave processes behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    folder = Path(tempfile.mkdtemp(prefix="upgrade-"))
    installation = None
    try:
        commit = revision.commit_of(options.old, root=ROOT)
        revision.check_out(commit, folder / "old", root=ROOT)
        who = people.customers(options.seed, options.accounts)
        installation = Installation(folder, folder / "old")
        os.environ.update(installation.settings())
        say(f"seed {options.seed}: {options.accounts} accounts, from {commit[:9]} to this checkout")
        play = Play(installation, random.Random(options.seed), who)
        played(play)
        return tell(play)
    except CannotRun as error:
        print(f"{CANNOT_RUN}: {error}.")
        return 2
    except Failed as error:
        print(last_words(folder), file=sys.stderr)
        print(f"FAILED {error}")
        return 1
    finally:
        if installation is not None:
            installation.leave()
        _leave(folder, keep=options.keep)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="upgrade", description="Upgrade an installation of an older commit in mid-close."
    )
    parser.add_argument(
        "--old", default=revision.RELEASED, metavar="REV", help="default: the release before"
    )
    parser.add_argument("--accounts", type=int, default=300)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep books and logs there")
    return parser.parse_args()


# --- what happens


def played(play: Play) -> None:
    built_and_begun(play)
    upgraded(play)
    ended_by_the_new(play)
    doorbells_answered(play)
    judged(play)


def built_and_begun(play: Play) -> None:
    """With the old code alone: everything, until a part of the charges has ended."""
    here, month = play.installation, people.last_month()
    here.start_provider()
    here.migrate("old")
    _look_inside()
    here.wait_for(lambda: outside.answers(here), "the provider answers")
    _build(play, "old", play.who, slug="default", prefix="U")
    outside.slow_down(here, LATENCY_SECONDS)
    limits = {name: count / SLOW_SECONDS for name, count in _counts(play.who).items()}
    here.inside("old", "limit", json.dumps(limits))
    here.start_site("old")
    _begin(play, "old", "default")
    play.doorbells = _rung(play)
    say(f"built, and the close of {month:%Y-%m} begun")
    for name in ("old-1", "old-2"):
        here.start_cluster("old", name)
    here.start_sweeper("old")
    here.wait_for(lambda: outside.site_is_up(here), "the old site is up")
    here.wait_for(lambda: len(_unpaid()) >= 0.9 * len(play.who), "the invoices are issued")
    _pay_meanwhile(play, "old")
    _set_pace(play, FAST_SECONDS)
    begins_at = play.rng.uniform(*BEGIN_BETWEEN)
    here.wait_for(lambda: _charged() >= begins_at, f"{begins_at:.0%} of the charges")
    _set_pace(play, SLOW_SECONDS)


def upgraded(play: Play) -> None:
    """As docs/operations.md says it; and one old cluster is killed with charges in hand."""
    here, seen = play.installation, play.seen
    seen["charged when the upgrade began"] = f"{_charged():.0%}"
    play.must(f"the upgrade began at {_charged():.0%}", be=_charged() <= BEGIN_LATEST)
    applied = _ask_one("SELECT count(*) FROM django_migrations")
    seen["deadlocks that the migration lost"] = here.migrate("new")
    seen["migrations"] = _ask_one("SELECT count(*) FROM django_migrations") - applied
    say(f"migrated with the new code: {seen['migrations']} migrations")
    here.stop("site-old", "sweeper-old")
    here.start_site("new")
    here.start_sweeper("new")
    here.start_cluster("new", "new-1")
    here.wait_for(lambda: outside.site_is_up(here), "the new site is up")
    # Workers of the old code are in the middle of theirs: the new ones hear these.
    _hang(play.doorbells)
    here.wait_for(lambda: _worked("new-1", "CHARGE"), "the new code charges beside the old")
    seen["charged when the new code joined in"] = f"{_charged():.0%}"

    _set_pace(play, FAST_SECONDS)
    here.wait_for(lambda: len(_in_hand()) >= IN_HAND, "charges are on their way")
    in_hand = _in_hand()
    seen["processes killed"] = here.kill("old-1")
    before = _worked("old-2")
    say(f"killed: old-1, {seen['processes killed']} processes")
    _set_pace(play, SLOW_SECONDS)
    here.start_cluster("new", "new-2")
    # Longer than a charge takes, shorter than the lease: what has not moved was the killed one's.
    time.sleep(3 * LATENCY_SECONDS)
    seen["charges in hand of the killed"] = len(in_hand & _in_hand())
    play.must("the killed cluster had no charge in hand", be=in_hand & _in_hand())

    _pay_meanwhile(play, "new")
    _set_pace(play, FAST_SECONDS)
    here.wait_for(lambda: _charged() >= OLD_LEAVES_AT, f"{OLD_LEAVES_AT:.0%} of the charges")
    seen["steps of the old code beside the new"] = _worked("old-2") - before
    play.must("the old code did nothing beside the new", be=_worked("old-2") > before)
    here.stop("old-2")
    say("the old code is gone")


def ended_by_the_new(play: Play) -> None:
    """Nobody helps; but banks and customers confirm what was begun, most of it by the old code."""
    here, seen = play.installation, play.seen
    finished = "SELECT count(*) FROM billing_closerun WHERE state = 'FINISHED'"
    here.wait_for(lambda: _ask_one(finished), "the close finishes", seconds=300)
    outside.slow_down(here, 0)
    asked = [ref for (ref,) in _ask(ASKED)]
    outside.authenticate(here, asked)
    seen["confirmed at their bank's page"] = len(asked)
    seen["debits that the banks have paid"] = outside.confirm_debits(here)
    try:
        here.wait_for(lambda: not _unsettled(play), "all is quiet", seconds=SETTLE_SECONDS)
    except Failed as error:
        raise Failed(f"{error}: {_judge().unended()}") from error
    here.stop("new-1", "new-2", "sweeper-new")
    say("the close is finished")


def doorbells_answered(play: Play) -> None:
    """A second run, on which nobody works but who hears what the old code has rung."""
    here = play.installation
    who = people.customers(play.rng.randrange(10**6), SECOND_COUNT, name=SECOND)
    play.who = [*play.who, *who]
    _build(play, "new", who, slug=SECOND, prefix="S")
    _begin(play, "new", SECOND)
    ended = "SELECT count(*) FROM billing_step WHERE finished_at IS NOT NULL"
    before = _ask_one(ended)
    rung = as_json(here.folder / "rung.json", [play.doorbells[lane] for lane in ROUNDS])
    here.start_sweeper("new")
    here.inside("new", "answer", str(rung))
    # Banks confirm these as well; what is asked about again later needs to be rung for once more.
    outside.authenticate(here, [ref for (ref,) in _ask(ASKED)])
    outside.confirm_debits(here)
    for _ in range(MORE_ROUNDS):
        if not _unsettled(play):
            break
        here.inside("new", "answer", str(rung))
    here.stop("sweeper-new")
    play.seen["steps by doorbells that the old code rang"] = _ask_one(ended) - before
    say("the second run was worked on, by the old code's doorbells")


def judged(play: Play) -> None:
    here, seen = play.installation, play.seen
    said = here.manage("new", "check_books", exits=(0, 1, 2))
    seen["check_books"] = said.strip().splitlines()[-1]
    if "checks hold" not in seen["check_books"]:
        play.wrong.append(f"check_books:\n{said}")
    errors = list(here.errors())
    # A worker's transaction that is rolled back is begun anew: what it must not do is to change the outcome.
    met = [error for error in errors if MET_THE_MIGRATION.search(error)]
    seen["deadlocks that a worker lost to the migration"] = len(met)
    play.wrong += [error for error in errors if error not in met]
    play.wrong += _judge().violations(
        play.who, taken=outside.taken(here), by_transfer=play.by_transfer
    )
    for host, steps in _ask(WORKED_BY_HOST):
        seen[f"steps of {host}"] = steps
    for gateway, count in _ask(
        "SELECT gateway, count(*) FROM billing_payment GROUP BY 1 ORDER BY 1"
    ):
        seen[f"payments by {gateway}"] = count
    seen["of them, by customers on the site"] = _ask_one(BY_CUSTOMERS)
    play.must("no customer has paid on the site", be=_ask_one(BY_CUSTOMERS))


# --- pieces of it

ASKED = "SELECT provider_ref FROM billing_paymentattempt WHERE state = 'REQUIRES_ACTION'"
CHARGED = """
SELECT count(*) FILTER (WHERE finished_at IS NOT NULL)::float / greatest(count(*), 1)
  FROM billing_step WHERE kind = 'CHARGE'
"""
WORKED = "SELECT coalesce(sum(steps), 0) FROM billing_contribution WHERE host = %s AND kind LIKE %s"
WORKED_BY_HOST = "SELECT host, sum(steps) FROM billing_contribution GROUP BY 1 ORDER BY 1"
BY_CUSTOMERS = """
SELECT count(*) FROM billing_payment p JOIN billing_paymentattempt a ON a.id = p.attempt_id
 WHERE a.kind = 'ON_SESSION'
"""
# Those at the bank for days are in nobody's hand.
IN_HAND_NOW = (
    "SELECT id FROM billing_paymentattempt WHERE state IN ('RESERVED', 'PREPARED', 'SUBMITTED')"
)
UNPAID = """
SELECT a.external_id, a.id, i.number, i.total_minor, i.currency
  FROM billing_invoice i JOIN accounts_account a ON a.id = i.account_id
 WHERE i.state = 'ISSUED' AND i.settled_at IS NULL
"""


def _look_inside() -> None:
    """From now on we ask the database ourselves, and keep the embedded server up."""
    os.environ["DJANGO_SETTINGS_MODULE"] = "config.settings.base"
    django.setup()
    _ask("SELECT 1")


def _judge() -> Any:
    # It names Django's connection, so not before there are settings.
    from tests.upgrade import judge

    return judge


def _ask(query: str, *parameters: object) -> list[tuple[Any, ...]]:
    rows: list[tuple[Any, ...]] = _judge().ask(query, *parameters)
    return rows


def _ask_one(query: str, *parameters: object) -> Any:
    return _judge().one(query, *parameters)


def _build(play: Play, code: str, who: list[Customer], *, slug: str, prefix: str) -> None:
    here = play.installation
    cards = outside.enter_cards(here, who)
    rows = as_json(here.folder / f"{slug}.json", people.rows(who, cards))
    here.inside(code, "build", str(rows), slug, prefix)
    usage = here.folder / f"{slug}.csv"
    usage.write_text(people.usage_file(who, people.last_month()))
    here.manage(code, "import_usage", str(usage), "--format", "csv", "--json")


def _begin(play: Play, code: str, slug: str) -> None:
    """Start a close by its command, and leave the work to others."""
    here, name = play.installation, f"begin-{slug}"
    month = f"{people.last_month():%Y-%m}"
    here.start(code, name, "manage.py", "close_month", month, "--entity", slug, "--watch")
    begun = """
    SELECT count(*) FROM billing_closerun r JOIN accounts_billingentity e ON e.id = r.entity_id WHERE e.slug = %s
    """
    here.wait_for(lambda: _ask_one(begun, slug), "the close begins")
    here.wait_for(lambda: _ask_one("SELECT count(*) FROM django_q_ormq"), "a doorbell is rung")
    here.interrupt(name)


def _rung(play: Play) -> dict[str, str]:
    """A doorbell of each lane as the old code rings it, by its lane."""
    play.installation.inside("old", "ring", *LANES)
    return dict(_ask("SELECT key, payload FROM django_q_ormq ORDER BY id"))


def _counts(who: list[Customer]) -> Counter[str]:
    """How many are charged in each provider's lane."""
    return Counter(each.means.gateway for each in who if each.means.gateway)


def _set_pace(play: Play, seconds: float) -> None:
    """Set the lanes' rates, as somebody does in the admin: so that all charges would take so long."""
    from django.db import connection

    rates = [(count / seconds, name) for name, count in _counts(play.who).items()]
    with connection.cursor() as cursor:
        cursor.executemany("UPDATE notifications_lane SET rate = %s WHERE provider = %s", rates)


def _hang(doorbells: dict[str, str]) -> None:
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO django_q_ormq (key, payload, lock) VALUES (%s, %s, now())",
            list(doorbells.items()),
        )


def _pay_meanwhile(play: Play, code: str) -> None:
    """Half of those who pay by themselves: on the site whoever has a card that pays, else by transfer."""
    here, unpaid = play.installation, {name: rest for name, *rest in _unpaid()}
    signed_in = [each for each in play.who if each.signs_in and each.name in unpaid]
    half = signed_in[: len(signed_in) // 2] if code == "old" else signed_in
    outside.pay_on_the_site(here, {each.email: unpaid[each.name][0] for each in half})
    cannot = [
        each
        for each in play.who
        if each.name in unpaid and each.name not in play.by_transfer and _cannot_pay(each)
    ]
    chosen = play.rng.sample(cannot, len(cannot) // 3)
    paid = here.folder / f"statement-{code}.csv"
    paid.write_text(
        outside.statement(
            (number, people.major(minor, currency), currency)
            for _, number, minor, currency in (unpaid[each.name] for each in chosen)
        )
    )
    here.manage(code, "import_transfers", str(paid))
    play.by_transfer |= {each.name for each in chosen}
    say(f"{len(half)} customers went to the {code} site to pay, {len(chosen)} paid by transfer")


def _cannot_pay(who: Customer) -> bool:
    return not (who.means.pays or who.means.asks or who.means.takes_days)


def _unpaid() -> list[tuple[Any, ...]]:
    return _ask(UNPAID)


def _charged() -> float:
    return float(_ask_one(CHARGED))


def _worked(host: str, kind: str = "%") -> int:
    return int(_ask_one(WORKED, host, kind))


def _in_hand() -> set[Any]:
    return {pk for (pk,) in _ask(IN_HAND_NOW)}


def _unsettled(play: Play) -> bool:
    """Whether something is still to be done before one may judge."""
    booked = _ask_one("SELECT count(*) FROM billing_payment WHERE gateway <> 'transfer'")
    return bool(_judge().unended()) or booked < len(outside.taken(play.installation))


# --- what is said


def tell(play: Play) -> int:
    width = max(map(len, play.seen))
    for what, value in play.seen.items():
        print(f"  {what.ljust(width)}  {value}")
    for each in play.wrong[:20]:
        print(f"VIOLATION {each}")
    print(f"accounts: {len(play.who)}, violations: {len(play.wrong)}")
    return int(bool(play.wrong))


def say(words: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {words}", flush=True)


def _leave(folder: Path, *, keep: Path | None) -> None:
    if settings.configured:
        from django.db import connections

        connections.close_all()
    # At our own exit its folder would be gone, and nobody would stop it any more.
    with suppress(OSError, ValueError, psutil.NoSuchProcess):
        postmaster = psutil.Process(
            int((folder / "postgres/postmaster.pid").read_text().split()[0])
        )
        postmaster.send_signal(signal.SIGINT)
        postmaster.wait(LEAVE_SECONDS)
    if keep:
        unneeded = shutil.ignore_patterns("postgres", "postgres.socket", "old")
        shutil.copytree(folder, keep, dirs_exist_ok=True, ignore=unneeded)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
