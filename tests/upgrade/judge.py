"""What must be true in the end. Rows are read as they stand in the database, whichever code wrote them."""

from collections import Counter
from collections.abc import Collection, Iterator
from typing import Any

from django.db import connection

from tests.upgrade.outside import Taken
from tests.upgrade.people import Customer

OPEN = "('WAITING', 'READY', 'RUNNING', 'UNKNOWN')"
# Money may be on its way no longer; REQUIRES_ACTION waits for a customer, for as long as they like.
UNENDED_ATTEMPTS = """
SELECT state, count(*) FROM billing_paymentattempt
 WHERE state NOT IN ('SUCCEEDED', 'FAILED', 'RELEASED', 'REQUIRES_ACTION') GROUP BY state
"""
UNENDED_STEPS = f"""
SELECT kind || ' ' || state || ': ' || because || ' ' || left(last_error, 300), count(*) FROM billing_step
 WHERE state IN {OPEN} OR state IN ('DEAD', 'BLOCKED', 'CANCELLED') GROUP BY 1
"""
UNENDED_RUNS = "SELECT state, count(*) FROM billing_closerun WHERE state <> 'FINISHED' GROUP BY 1"
UNENDED_MAILS = """
SELECT state || ': ' || left(last_error, 300), count(*) FROM notifications_message
 WHERE state NOT IN ('SENT', 'CANCELLED') GROUP BY 1
"""
# django-q2 keeps what has failed, and nothing else.
FAILED_TASKS = (
    "SELECT func || ': ' || result, count(*) FROM django_q_task WHERE NOT success GROUP BY 1"
)
COUNTED = """
SELECT (SELECT coalesce(sum(steps), 0) FROM billing_contribution),
       (SELECT count(*) FROM billing_step WHERE finished_at IS NOT NULL)
"""
INVOICED = """
SELECT external_id, array_agg(total_minor) FROM billing_invoice i JOIN accounts_account a ON a.id = i.account_id
 WHERE i.state = 'ISSUED' GROUP BY 1
"""
PAID = """
SELECT external_id, p.gateway, p.provider_ref, p.amount_minor
  FROM billing_payment p JOIN accounts_account a ON a.id = p.account_id ORDER BY p.id
"""
ATTEMPTS = """
SELECT p.id::text, external_id FROM billing_paymentattempt p JOIN accounts_account a ON a.id = p.account_id
"""


def ask(query: str, *parameters: object) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(query, parameters)
        return cursor.fetchall()


def one(query: str, *parameters: object) -> Any:
    [(value,)] = ask(query, *parameters)
    return value


def violations(
    who: Collection[Customer], *, taken: list[Taken], by_transfer: Collection[str]
) -> list[str]:
    """All that is wrong, in words. `by_transfer`: who has paid by bank transfer."""
    paid = [Taken(gateway, ref, minor, name) for name, gateway, ref, minor in ask(PAID)]
    return [
        *unended(),
        *against_the_books(
            taken, [p for p in paid if p.gateway != "transfer"], dict(ask(ATTEMPTS))
        ),
        *against_the_seed(who, paid, dict(ask(INVOICED)), by_transfer=by_transfer),
        *_against_what_was_counted(),
    ]


def unended() -> list[str]:
    """What has not come to its end, or to none that is good."""
    return [
        f"{count} {what} {which}"
        for what, query in (
            ("steps", UNENDED_STEPS),
            ("runs", UNENDED_RUNS),
            ("attempts", UNENDED_ATTEMPTS),
            ("messages", UNENDED_MAILS),
            ("failed tasks", FAILED_TASKS),
        )
        for which, count in ask(query)
    ]


def against_the_books(
    taken: list[Taken], paid: list[Taken], whose: dict[str, str]
) -> Iterator[str]:
    """Providers' own books say what ours do, and nobody is in them twice. `whose`: attempts' accounts."""
    theirs = {(t.gateway, t.ref, t.amount_minor) for t in taken}
    ours = {(p.gateway, p.ref, p.amount_minor) for p in paid}
    for lost in sorted(theirs - ours):
        yield f"taken and not booked: {lost}"
    for phantom in sorted(ours - theirs):
        yield f"booked and not taken: {phantom}"
    times = Counter(whose.get(t.own_reference, f"nobody ({t.own_reference})") for t in taken)
    for name, count in sorted(times.items()):
        if count > 1 or name.startswith("nobody"):
            yield f"{name} was charged {count} times"


def against_the_seed(
    who: Collection[Customer],
    paid: list[Taken],
    invoiced: dict[str, list[int]],
    *,
    by_transfer: Collection[str],
) -> Iterator[str]:
    """Everybody has one invoice of what they used, and has paid it once or, where they cannot, not at all."""
    by_name: dict[str, list[tuple[str, int]]] = {}
    for payment in paid:
        of_them = by_name.setdefault(payment.own_reference, [])
        of_them.append((payment.gateway, payment.amount_minor))
    for each in who:
        if each.name in by_transfer:
            expected = [("transfer", each.minor)]
        elif each.means.pays or each.means.takes_days or each.means.asks:
            expected = [(each.means.gateway, each.minor)]
        else:
            expected = []
        if (seen := by_name.get(each.name, [])) != expected:
            yield f"{each.name} has paid {seen} and should have paid {expected}: {each.means}"
        if (bills := invoiced.get(each.name, [])) != [each.minor]:
            yield f"{each.name} was invoiced {bills} and should be {each.minor}"


def _against_what_was_counted() -> Iterator[str]:
    """Each host's count of what it ended, also of one that died, adds up to every step, once."""
    [(counted, ended)] = ask(COUNTED)
    if counted != ended:
        yield f"hosts say they ended {counted} steps, and {ended} have"
