"""
Close gateways whose provider may know of charges that our database has lost.

After a restore from a backup, rows are missing whose money has moved. Charging again would make somebody
pay twice. So a gateway must be open before anything is reserved or sent, and it closes by itself when:

1. the database is not the one that charged last: it was restored from a dump or to a point in time, or
   failed over. Its identity is the server's system identifier, its timeline, and the ids of the database
   and of our own table; a dump changes these ids.
2. one of a provider's newest objects belongs to an attempt we do not know: a copy of the disk was
   restored. Then all gateways close. An attempt is committed before its provider hears of it, so a
   complete database knows them all.

Neither notices rows overwritten in place, in the same tables, within a minute of their backup. A gateway
opens when its provider was listed and everything lost is restored (billing/reconciliation/). Times here
are the database's own: a restored row is as old as it looks.
"""

import logging
import uuid
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import connection, transaction
from django.db.models import Max

from billing import gateways
from billing.gateways import Misconfigured, Observation
from billing.models import GatewayGuard, PaymentAttempt, ReconciliationBreak
from billing.payments import throttle

logger = logging.getLogger(__name__)

# A provider makes its object after our row, by another clock, and maybe after days of trouble.
LISTED_BEFORE = timedelta(days=3)
# How often a gateway's newest objects are looked at, and how long the last look will do if the provider
# does not answer.
CHECK_SECONDS = 60
CHECK_HOLDS_SECONDS = 600

# What an ordinary role may call unless somebody has taken it away, as some hosts do.
MAY_ASK = """
SELECT has_function_privilege('pg_control_system()', 'execute')
   AND has_function_privilege('pg_current_wal_lsn()', 'execute')
   AND has_function_privilege('pg_walfile_name(pg_lsn)', 'execute')
"""
# A failover or a restore to a point in time begins a new timeline: the first 8 digits of a WAL file.
SERVER = """
SELECT system_identifier || '/' || left(pg_walfile_name(pg_current_wal_lsn()), 8)
  FROM pg_control_system()
"""
DATABASE = f"""
SELECT oid || '/' || '{GatewayGuard._meta.db_table}'::regclass::oid FROM pg_database
 WHERE datname = current_database()
"""
STANDING = """
SELECT paused_because, database_identity,
       server_started_at = pg_postmaster_start_time() AND checked_at > now() - %(check)s * interval '1 second',
       server_started_at = pg_postmaster_start_time() AND checked_at > now() - %(holds)s * interval '1 second'
  FROM billing_gatewayguard WHERE gateway = %(gateway)s
"""
OPEN = """
INSERT INTO billing_gatewayguard
       (gateway, database_identity, server_started_at, checked_at, paused_because)
VALUES (%s, %s, pg_postmaster_start_time(), now(), '')
ON CONFLICT (gateway) DO UPDATE
   SET server_started_at = excluded.server_started_at, checked_at = excluded.checked_at
 WHERE billing_gatewayguard.paused_at IS NULL
   AND billing_gatewayguard.database_identity = excluded.database_identity
"""
CLOSE = """
INSERT INTO billing_gatewayguard AS g
       (gateway, database_identity, server_started_at, checked_at, paused_at, paused_because, list_from)
VALUES (%s, %s, pg_postmaster_start_time(), now(), clock_timestamp(), %s, %s)
ON CONFLICT (gateway) DO UPDATE
   SET paused_at = excluded.paused_at, paused_because = excluded.paused_because, list_from = excluded.list_from
 WHERE g.paused_at IS NULL
"""
REOPEN = """
UPDATE billing_gatewayguard
   SET database_identity = %s, server_started_at = pg_postmaster_start_time(), checked_at = now(),
       paused_at = NULL, paused_because = '', list_from = NULL
 WHERE gateway = %s AND paused_at = %s
"""

ANOTHER_DATABASE = (
    "this is not the database that charged last: it was restored, moved or failed over"
)
UNKNOWN_OBJECT = "the provider has charges that this database has lost: {refs}"
NO_ANSWER = "the provider does not answer what its newest charges are"


@dataclass(frozen=True)
class _Standing:
    """What our row says of a gateway: whether the last look is fresh, or will do if no answer comes."""

    paused_because: str
    is_this_database: bool
    is_fresh: bool
    is_recent: bool


def watch(names: Iterable[str]) -> dict[str, str]:
    """
    Check whether each gateway may be charged through. Returns the closed ones by name, with the reason.

    Asks the provider at most once a minute, with no transaction open. Leaves out gateways that are not set
    up: nothing can be sent through them.
    """
    assert not transaction.get_connection().in_atomic_block, (
        "a network call with a transaction open"
    )
    found = {}
    for name in sorted(set(names)):
        with suppress(Misconfigured):
            # Loads its SDK, which takes half a second, before any lock is held.
            gateways.get(name)
            if because := _look(name):
                found[name] = because
    return found


def watch_all() -> dict[str, str]:
    """Watch every gateway that was ever charged through, unless its lane is closed; see `watch`."""
    names = set(GatewayGuard.objects.values_list("gateway", flat=True))
    return watch(names - set(throttle.shut(names)))


def closed(names: Iterable[str]) -> dict[str, str]:
    """Return which of these gateways are closed, and why; in the caller's transaction."""
    found = {}
    for name in sorted(set(names)):
        standing = _standing(name)
        if standing is not None and (because := _why_closed(standing)):
            found[name] = because
    return found


def any_is_closed() -> bool:
    """
    Whether any gateway of this installation is closed; in the caller's transaction.

    An account that seems to owe may have paid through it, whatever card of theirs we still know.
    """
    return bool(closed(gateways.names()))


def paused() -> list[GatewayGuard]:
    """The closed gateways, which wait for their provider to be listed."""
    return list(GatewayGuard.objects.filter(paused_at__isnull=False).order_by("gateway"))


@transaction.atomic(durable=True)
def reopen(guard: GatewayGuard) -> bool:
    """Open a gateway, unless it was closed again meanwhile."""
    with connection.cursor() as cursor:
        cursor.execute(REOPEN, [identity(), guard.gateway, guard.paused_at])
        is_open = bool(cursor.rowcount)
    if is_open:
        logger.warning("charging through %s goes on: the provider was listed", guard.gateway)
    return is_open


def own_reference(text: str) -> uuid.UUID | None:
    """The attempt that a provider's object names; none where that is no attempt's id."""
    with suppress(ValueError):
        return uuid.UUID(text)
    return None


# --- looking


def _look(name: str) -> str:
    """Look at a gateway, and return why it may not be charged through; empty if it may."""
    standing = _standing(name)
    if standing is not None and (because := _why_closed(standing)):
        if not standing.paused_because:
            _close(name, because)
        return because
    if standing is not None and standing.is_fresh:
        return ""
    try:
        newest = gateways.get(name).newest()
    except Misconfigured:
        raise
    except Exception as error:  # noqa: BLE001 - whatever a provider call raises, there is no answer
        throttle.note([(name, error)])
        logger.warning("%s: %s: %r", name, NO_ANSWER, error)
        return "" if standing is not None and standing.is_recent else NO_ANSWER
    throttle.note([(name, newest)])
    if unknown := _unknown(name, newest):
        because = UNKNOWN_OBJECT.format(refs=", ".join(seen.ref for seen in unknown))[:300]
        # All gateways have lost rows: an account that paid here may have a card elsewhere, as far as we still know.
        for each in {name, *GatewayGuard.objects.values_list("gateway", flat=True)}:
            _close(each, because)
        return because
    _open(name)
    return ""


def _why_closed(standing: _Standing) -> str:
    if standing.paused_because:
        return standing.paused_because
    return "" if standing.is_this_database else ANOTHER_DATABASE


def _unknown(name: str, newest: Iterable[Observation]) -> list[Observation]:
    """The objects that belong to no attempt of ours, and are not noted as a break either."""
    attempts = {seen: own_reference(seen.own_reference) for seen in newest}
    known = set(
        PaymentAttempt.objects.filter(pk__in=[pk for pk in attempts.values() if pk]).values_list(
            "pk", flat=True
        )
    )
    strange = [seen for seen, pk in attempts.items() if pk not in known]
    explained = set(
        ReconciliationBreak.objects.filter(
            gateway=name, provider_ref__in=[seen.ref for seen in strange]
        ).values_list("provider_ref", flat=True)
    )
    return [seen for seen in strange if seen.ref not in explained]


def _standing(name: str) -> _Standing | None:
    with connection.cursor() as cursor:
        cursor.execute(
            STANDING, {"gateway": name, "check": CHECK_SECONDS, "holds": CHECK_HOLDS_SECONDS}
        )
        row = cursor.fetchone()
    if row is None:
        return None
    because, of_row, is_fresh, is_recent = row
    return _Standing(because, of_row == identity(), is_fresh, is_recent)


def identity() -> str:
    """The identity of this database; without the server's part if we may not read it."""
    with connection.cursor() as cursor:
        cursor.execute(DATABASE)
        (database,) = cursor.fetchone()
        cursor.execute(MAY_ASK)
        if not cursor.fetchone()[0]:
            return str(database)
        cursor.execute(SERVER)
        (server,) = cursor.fetchone()
    return f"{server}/{database}"


@transaction.atomic(durable=True)
def _open(name: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(OPEN, [name, identity()])


@transaction.atomic(durable=True)
def _close(name: str, because: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(CLOSE, [name, identity(), because, _list_from(name)])
        is_news = bool(cursor.rowcount)
    if is_news:
        logger.error("charging through %s is paused: %s", name, because)


def _list_from(name: str) -> datetime | None:
    """Since when something may be lost; None if nothing tells, and everything must be listed."""
    newest: datetime | None = PaymentAttempt.objects.filter(gateway=name).aggregate(
        at=Max("created_at")
    )["at"]
    return newest - LISTED_BEFORE if newest else None
