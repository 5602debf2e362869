"""
The only writer of the ledger.

Writes in the caller's transaction, under the lock of every account it posts to (billing/locks.py):
the running balances rest on it.
"""

from collections.abc import Sequence

from django.db import connection
from django.db.models import Q

from billing.ledger.events import Event, Leg
from billing.models import LedgerAccount


def post(events: Sequence[Event]) -> None:
    """
    Book the events, in order, set-wise.

    :raises IntegrityError: if an event is booked already, or does not sum to zero (at commit).
    """
    if not events:
        return
    accounts = _ledger_accounts(events)
    with connection.cursor() as cursor:
        cursor.execute(
            ENTRIES,
            {
                "kinds": [event.kind for event in events],
                "sources": [event.source for event in events],
                "currencies": [event.currency for event in events],
                "accounts": [event.account_id for event in events],
                "descriptions": [event.description[:300] for event in events],
                "effective": [event.effective_at for event in events],
            },
        )
        entries = {(kind, source): pk for pk, kind, source in cursor.fetchall()}
        legs = [(event, leg) for event in events for leg in event.legs]
        cursor.execute(
            POSTINGS,
            {
                "entries": [entries[event.kind, event.source] for event, _ in legs],
                "ledger_accounts": [accounts[_key(event, leg)] for event, leg in legs],
                "amounts": [leg.amount_minor for _, leg in legs],
                "running": [leg.kind in LedgerAccount.CUSTOMER_SIDE for _, leg in legs],
            },
        )


# One statement each, however many events: a close books several for every account.
ENTRIES = """
INSERT INTO billing_ledgerentry (kind, source, currency, account_id, description, effective_at)
SELECT * FROM unnest(%(kinds)s::text[], %(sources)s::text[], %(currencies)s::text[], %(accounts)s::bigint[],
                     %(descriptions)s::text[], %(effective)s::timestamptz[])
RETURNING id, kind, source
"""

# A running balance goes on from the latest posting of its ledger account, in the order of the legs.
POSTINGS = """
INSERT INTO billing_posting (entry_id, ledger_account_id, amount_minor, version, balance_minor)
SELECT leg.entry_id, leg.ledger_account_id, leg.amount_minor,
       CASE WHEN leg.is_running THEN coalesce(latest.version, 0) + row_number() OVER so_far END,
       CASE WHEN leg.is_running
            THEN coalesce(latest.balance_minor, 0) + (sum(leg.amount_minor) OVER so_far)::bigint END
  FROM unnest(%(entries)s::bigint[], %(ledger_accounts)s::bigint[], %(amounts)s::bigint[],
              %(running)s::boolean[])
       WITH ORDINALITY AS leg(entry_id, ledger_account_id, amount_minor, is_running, position)
  LEFT JOIN LATERAL (
       SELECT version, balance_minor FROM billing_posting
        WHERE leg.is_running AND ledger_account_id = leg.ledger_account_id AND version IS NOT NULL
        ORDER BY version DESC LIMIT 1) latest ON true
WINDOW so_far AS (PARTITION BY leg.ledger_account_id ORDER BY leg.position)
 ORDER BY leg.position
"""


# kind, currency, account, entity, gateway: what makes a ledger account one of its kind.
Key = tuple[str, str, int | None, int | None, str]


def _key(event: Event, leg: Leg) -> Key:
    if leg.kind in LedgerAccount.CUSTOMER_SIDE:
        return (leg.kind, event.currency, event.account_id, None, "")
    return (leg.kind, event.currency, None, event.entity_id, leg.gateway)


def _ledger_accounts(events: Sequence[Event]) -> dict[Key, int]:
    keys = {_key(event, leg) for event in events for leg in event.legs}
    found = _find(keys)
    if missing := sorted(keys - found.keys(), key=repr):
        # Another worker may open the same company-side account at the same time: one wins.
        with connection.cursor() as cursor:
            columns = [list(column) for column in zip(*missing, strict=True)]
            cursor.execute(OPEN_LEDGER_ACCOUNTS, columns)
        found = _find(keys)
    return found


def _find(keys: set[Key]) -> dict[Key, int]:
    rows = LedgerAccount.objects.filter(
        Q(account__in={key[2] for key in keys if key[2] is not None})
        | Q(entity__in={key[3] for key in keys if key[3] is not None})
    ).values_list("kind", "currency", "account", "entity", "gateway", "pk")
    return {row[:5]: row[5] for row in rows if row[:5] in keys}


OPEN_LEDGER_ACCOUNTS = """
INSERT INTO billing_ledgeraccount (kind, currency, account_id, entity_id, gateway)
SELECT * FROM unnest(%s::text[], %s::text[], %s::bigint[], %s::bigint[], %s::text[])
ON CONFLICT DO NOTHING
"""
