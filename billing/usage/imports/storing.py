"""
From the staging table into the books, in the caller's transaction, a whole file per statement.

Rows that only the database can judge are rejected here: those in another currency than their
account, and those whose event id is known with other content.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from django.db import connection

from accounts.models import BillingEntity
from billing.models import UsageBatch
from billing.usage.imports.file_errors import FileRefused, RowRejected
from billing.usage.imports.rows import Format

DEFAULT_ENTITY = "default"
# Rejections fetched at once.
PAGE = 5000

# One import at a time stores; reading and checking go on side by side. Whoever waited sees what the
# other stored, and two files that share rows in another order cannot deadlock.
LOCK = "SELECT pg_advisory_xact_lock(hashtextextended('usage import', 0))"
# There is one at a time, and it sorts a whole file.
SORT_IN_MEMORY = "SET LOCAL work_mem = '64MB'"

NEW_ID = "SELECT nextval(pg_get_serial_sequence('billing_usagebatch', 'id'))"

# The first row of an account decides its currency and its name.
ADD_ACCOUNTS = """
INSERT INTO accounts_account
       (entity_id, external_id, name, currency, time_zone, language, email, state)
SELECT DISTINCT ON (account)
       %(entity)s, account, coalesce(nullif(account_name, ''), account), currency,
       'UTC', 'en', '', 'ACTIVE'
  FROM usage_staging
 WHERE currency IS NOT NULL
   AND NOT EXISTS (SELECT 1 FROM accounts_account WHERE external_id = usage_staging.account)
 ORDER BY account, row_number
ON CONFLICT (external_id) DO NOTHING
"""

ADD_PRODUCTS = """
INSERT INTO billing_product (code, name)
SELECT DISTINCT ON (product) product, coalesce(nullif(product_name, ''), product)
  FROM usage_staging
 WHERE NOT EXISTS (SELECT 1 FROM billing_product WHERE code = usage_staging.product)
 ORDER BY product, row_number
ON CONFLICT (code) DO NOTHING
"""

REJECT_OTHER_CURRENCIES = """
INSERT INTO usage_rejects
SELECT new.row_number, %(field)s, coalesce(new.currency, ''),
       CASE WHEN account.id IS NULL
            THEN format('is empty, and account %%s is new', new.account)
            ELSE format('is not the currency of account %%s, which is billed in %%s',
                        new.account, account.currency) END,
       CASE WHEN account.id IS NULL
            THEN 'Say in which currency the account is billed'
            ELSE format('Send it in %%s, or for an account billed in %%s',
                        account.currency, new.currency) END
  FROM usage_staging new
  LEFT JOIN accounts_account account ON account.external_id = new.account
 WHERE account.id IS NULL OR account.currency <> new.currency
"""

# An event id names one content for good: what came first stays.
CONFLICT = """
INSERT INTO usage_rejects
SELECT DISTINCT ON (new.row_number) new.row_number, 'event_id', new.event_id,
       format('is known for account %%s with other content: ', new.account) || concat_ws('; ',
           format('quantity %%s before, %%s here', trim_scale({old}.quantity), trim_scale(new.quantity)),
           CASE WHEN {old_product} <> new.product
                THEN format('product %%s before, %%s here', {old_product}, new.product) END,
           CASE WHEN ({old}.item, {old}.unit, {old}.kind) <> (new.item, new.unit, new.kind)
                THEN format('%%s before, %%s here',
                            concat_ws(' ', {old}.kind, {old}.item, {old}.unit),
                            concat_ws(' ', new.kind, new.item, new.unit)) END,
           CASE WHEN ({old}.unit_price, {old}.amount) IS DISTINCT FROM (new.unit_price, new.amount)
                THEN 'another price' END,
           CASE WHEN ({old}.starts_at, {old}.ends_at, {old}.effective_at)
                  <> (new.starts_at, new.ends_at, new.effective_at)
                THEN 'another time' END),
       'Give the new event an id of its own, or send the difference as an ADJUSTMENT'
  FROM usage_staging new
  {join}
 WHERE ({old_product}, {old}.kind, {old}.item, {old}.unit, {old}.quantity, {old}.unit_price,
        {old}.amount, {old}.starts_at, {old}.ends_at, {old}.effective_at)
       IS DISTINCT FROM
       (new.product, new.kind, new.item, new.unit, new.quantity, new.unit_price,
        new.amount, new.starts_at, new.ends_at, new.effective_at)
"""

REJECT_CONFLICTS_WITH_STORED = CONFLICT.format(
    old="event",
    old_product="product.code",
    join="""
  JOIN accounts_account account ON account.external_id = new.account
  JOIN billing_usageevent event ON event.account_id = account.id AND event.source = %(source)s
                               AND event.event_id = new.event_id
  JOIN billing_product product ON product.id = event.product_id
""",
)

REJECT_CONFLICTS_WITHIN = CONFLICT.format(
    old="first",
    old_product="first.product",
    join="""
  JOIN (SELECT DISTINCT ON (account, event_id) * FROM usage_staging
         ORDER BY account, event_id, row_number) first
    ON first.account = new.account AND first.event_id = new.event_id
""",
)

TWICE_IN_THE_FILE = """
SELECT 1 FROM usage_staging GROUP BY account, event_id HAVING count(*) > 1 LIMIT 1
"""

STORED_BEFORE = """
SELECT 1
  FROM usage_staging new
  JOIN accounts_account account ON account.external_id = new.account
  JOIN billing_usageevent event ON event.account_id = account.id AND event.source = %(source)s
                               AND event.event_id = new.event_id
 LIMIT 1
"""

REMOVE_REJECTED = """
DELETE FROM usage_staging USING usage_rejects
 WHERE usage_rejects.row_number = usage_staging.row_number
"""

# Equal rows of one file are told apart by counting them; which is which makes no difference.
EVENT_ID = "staged.event_id"
COUNTED_EVENT_ID = """
       staged.event_id || '-' || row_number() OVER (PARTITION BY staged.event_id COLLATE "C")
"""
# Repaired rows are counted on from the equal ones of the file that they come from.
COUNTED_ON_EVENT_ID = """
       staged.event_id || '-' || coalesce(before.events, 0) +
       row_number() OVER (PARTITION BY staged.event_id COLLATE "C")
"""
BEFORE = """
  LEFT JOIN (
       SELECT regexp_replace(event_id, '-[0-9]+$', '') AS event_id, count(*) AS events
         FROM billing_usageevent
        WHERE batch_id = ANY(%(origins)s) AND source = %(source)s
          AND effective_at BETWEEN (SELECT min(effective_at) FROM usage_staging)
                               AND (SELECT max(effective_at) FROM usage_staging)
        GROUP BY 1) before ON before.event_id = staged.event_id
"""

# The imports that these rows come from: those named, others of the same bytes, and, where one of them
# was of repaired rows itself, those that it has them from.
ORIGINS = """
WITH RECURSIVE origins AS (
    SELECT id, sha256, source FROM billing_usagebatch WHERE id = ANY(%s)
     UNION
    SELECT other.id, other.sha256, other.source
      FROM origins JOIN billing_usagebatch other
        ON (other.sha256, other.source) = (origins.sha256, origins.source)
        OR other.id IN (SELECT batch_id FROM billing_rejectedrow WHERE again_in_id = origins.id)
)
SELECT id FROM origins
"""

# In the order of the index of what is stored once: half the time of any other.
ADD_EVENTS = """
INSERT INTO billing_usageevent
       (batch_id, account_id, product_id, source, event_id, kind, item, unit, quantity, unit_price,
        amount, starts_at, ends_at, effective_at, description, attributes)
SELECT %(batch)s, account.id, product.id, %(source)s, {event_id}, staged.kind, staged.item,
       staged.unit, staged.quantity, staged.unit_price, staged.amount, staged.starts_at,
       staged.ends_at, staged.effective_at, staged.description, staged.attributes
  FROM usage_staging staged
  JOIN accounts_account account ON account.external_id = staged.account
  JOIN billing_product product ON product.code = staged.product
  {before}
 ORDER BY account.id, staged.event_id COLLATE "C"
"""
UNLESS_STORED = "ON CONFLICT DO NOTHING"

REJECTIONS = """
SELECT row_number, field, value, problem, fix FROM usage_rejects
 WHERE row_number > %s ORDER BY row_number LIMIT %s
"""


def new_id() -> int:
    """The id of a new import, which its rejected rows name before it is stored."""
    with connection.cursor() as cursor:
        cursor.execute(NEW_ID)
        return int(cursor.fetchone()[0])


def lock() -> None:
    """Wait until no other import is storing, and keep others waiting until we commit."""
    with connection.cursor() as cursor:
        cursor.execute(LOCK)
        cursor.execute(SORT_IN_MEMORY)


def add_accounts() -> int:
    """
    Create the accounts that are named for the first time and return how many.

    :raises FileRefused: if there is no billing entity to bill them.
    """
    entity = BillingEntity.objects.filter(slug=DEFAULT_ENTITY).first()
    if entity is None:
        raise FileRefused(
            f"There is no billing entity {DEFAULT_ENTITY!r} to bill new accounts: add one in the admin."
        )
    return _execute(ADD_ACCOUNTS, {"entity": entity.pk})


def add_products() -> int:
    """Create the products that are named for the first time and return how many."""
    return _execute(ADD_PRODUCTS, {})


def reject_other_currencies(form: Format) -> int:
    """Move rows in another currency than their account's out of the staging table; returns how many."""
    return _reject(REJECT_OTHER_CURRENCIES, {"field": form.called["currency"]})


def all_are_new(form: Format) -> bool:
    """Whether no event id is known, neither from before nor from an earlier row: most files are like that."""
    return form.has_event_ids and not (
        _execute(STORED_BEFORE, {"source": form.name}) or _execute(TWICE_IN_THE_FILE, {})
    )


def reject_other_content(form: Format) -> int:
    """Move rows whose event id is known with other content out of the staging table; returns how many."""
    rejected = _reject(REJECT_CONFLICTS_WITH_STORED, {"source": form.name})
    # To compare each with the first of its id sorts all of them.
    if _execute(TWICE_IN_THE_FILE, {}):
        rejected += _reject(REJECT_CONFLICTS_WITHIN, {})
    return rejected


def _reject(sql: str, parameters: dict[str, int | str]) -> int:
    rejected = _execute(sql, parameters)
    if rejected:
        _execute(REMOVE_REJECTED, {})
    return rejected


def rejections() -> Iterator[tuple[int, RowRejected]]:
    """The rows that were moved out, by number."""
    last = 0
    while page := _page_after(last):
        for last, field, value, problem, fix in page:
            yield last, RowRejected(field=field, value=value, problem=problem, fix=fix)


def _page_after(number: int) -> list[tuple[int, str, str, str, str]]:
    with connection.cursor() as cursor:
        cursor.execute(REJECTIONS, [number, PAGE])
        return list(cursor.fetchall())


def add_events(
    *, batch: UsageBatch, form: Format, all_are_new: bool, repaired_of: Collection[int]
) -> int:
    """
    Store the staged rows that are not stored yet and return how many those were.

    `all_are_new`: none is, so PostgreSQL need not look before it stores each. `repaired_of`: the
    imports that had rejected the rows.
    """
    parameters = {"batch": batch.pk, "source": form.name, "origins": _origins(repaired_of)}
    if form.has_event_ids:
        add = ADD_EVENTS.format(event_id=EVENT_ID, before="")
    elif parameters["origins"]:
        add = ADD_EVENTS.format(event_id=COUNTED_ON_EVENT_ID, before=BEFORE)
    else:
        add = ADD_EVENTS.format(event_id=COUNTED_EVENT_ID, before="")
    if not all_are_new:
        add += UNLESS_STORED
    return _execute(add, parameters)


def _origins(imports: Collection[int]) -> list[int]:
    if not imports:
        return []
    with connection.cursor() as cursor:
        cursor.execute(ORIGINS, [list(imports)])
        return [import_id for (import_id,) in cursor.fetchall()]


def _execute(sql: str, parameters: Mapping[str, Any]) -> int:
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        return int(cursor.rowcount)
