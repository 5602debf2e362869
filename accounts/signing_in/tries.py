"""
How many tries are left, counted before the password is looked at: ten at once are ten.

By the account that is tried, by the address it comes from, and by both together: who guesses one account from
one place is stopped soon, and hardly keeps its owner, elsewhere, from signing in.
"""

import hashlib
from collections.abc import Iterable

from django.db import connection
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

WINDOW_SECONDS = 15 * 60
PER_ACCOUNT_AND_ADDRESS = 10
PER_ACCOUNT = 50
# A whole office may stand behind one.
PER_ADDRESS = 100
# Old rows that one try clears away.
CLEARED = 100

TOO_MANY: Promise = _("Too many tries. Please wait a quarter of an hour, then try again.")


class TooManyTries(Exception):
    """Nothing is looked at before the window is over."""


def count(*, username: str, address: str) -> None:
    """
    Count one more try.

    :raises TooManyTries: if it is one too many.
    """
    limits = _limits(username, address)
    with connection.cursor() as cursor:
        cursor.execute(CLEAR, {"window": WINDOW_SECONDS, "cleared": CLEARED})
        cursor.execute(COUNT, {"keys": sorted(limits), "window": WINDOW_SECONDS})
        made = dict(cursor.fetchall())
    if any(made[key] > limit for key, limit in limits.items()):
        raise TooManyTries


def forget(*, username: str, address: str) -> None:
    """Whoever knows the password was not guessing; those who are at the same address may be."""
    of_account = _keys([("both", username, address), ("account", username)])
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM accounts_signintries WHERE key = ANY(%s)", [of_account])
        cursor.execute(
            "UPDATE accounts_signintries SET tries = greatest(tries - 1, 0) WHERE key = ANY(%s)",
            [_keys([("address", address)])],
        )


def _limits(username: str, address: str) -> dict[str, int]:
    both, account, place = _keys(
        [("both", username, address), ("account", username), ("address", address)]
    )
    limits = {both: PER_ACCOUNT_AND_ADDRESS, account: PER_ACCOUNT}
    return limits | ({place: PER_ADDRESS} if address else {})


def _keys(of: Iterable[tuple[str, ...]]) -> list[str]:
    return [hashlib.sha256("\0".join(parts).encode()).hexdigest() for parts in of]


CLEAR = """
DELETE FROM accounts_signintries
 WHERE key IN (SELECT key FROM accounts_signintries WHERE since < now() - %(window)s * interval '1 second'
                ORDER BY since LIMIT %(cleared)s FOR UPDATE SKIP LOCKED)
"""
# In the order of the keys, so that two tries at once wait for each other and do not deadlock.
COUNT = """
INSERT INTO accounts_signintries AS t (key, tries, since)
SELECT key, 1, now() FROM unnest(%(keys)s::text[]) AS k (key) ORDER BY key
ON CONFLICT (key) DO UPDATE
   SET tries = CASE WHEN t.since < now() - %(window)s * interval '1 second' THEN 1 ELSE t.tries + 1 END,
       since = CASE WHEN t.since < now() - %(window)s * interval '1 second' THEN now() ELSE t.since END
RETURNING key, tries
"""
