"""A close in the middle, as rows: so many accounts, of which a tenth still waits for its invoice."""

from django.db import connection

from accounts.models import BillingEntity
from billing.models import CloseRun, Product
from tests.factories import AS_OF, OCTOBER

# By the last digit of an account: 0-5 have paid, 6 is to be charged, 7 has no price, 8 waits for its
# due date, 9 waits for its invoice, which real workers write while the pages are measured.
ROWS = (
    """
INSERT INTO accounts_account (external_id, name, currency, time_zone, language, email, state, entity_id)
SELECT 'page-' || n, 'Account ' || n, (ARRAY['EUR','USD','JPY'])[n %% 3 + 1], 'UTC', 'en',
       'books@example.com', 'ACTIVE', %(entity)s
  FROM generate_series(1, %(accounts)s) AS n
""",
    """
INSERT INTO billing_billingperiod (account_id, month, starts_at, ends_at)
SELECT id, %(month)s, '2018-10-01Z', '2018-11-01Z' FROM accounts_account
""",
    """
INSERT INTO billing_usagesummary (account_id, period_id, product_id, kind, item, unit, unit_price,
                                  quantity, events, first_at, last_at)
SELECT p.account_id, p.id, %(product)s, 'USAGE', 'item ' || k, 'hour', 0.1, 100, 1, p.starts_at, p.starts_at
  FROM billing_billingperiod p CROSS JOIN generate_series(1, 5) AS k WHERE p.account_id %% 10 = 9
""",
    """
INSERT INTO billing_invoice (state, account_name, currency, total_minor, sequence, number, issued_at, due_at,
                             settled_at, account_id, entity_id, period_id)
SELECT 'ISSUED', a.name, a.currency, 5000 + a.id %% 1000, a.id + 1000000, 'P-' || a.id, %(as_of)s,
       %(as_of)s + CASE WHEN a.id %% 10 = 8 THEN interval '20 years' ELSE interval '0' END,
       CASE WHEN a.id %% 10 < 6 THEN %(as_of)s END, a.id, a.entity_id, p.id
  FROM accounts_account a JOIN billing_billingperiod p ON p.account_id = a.id
 WHERE a.id %% 10 NOT IN (7, 9)
""",
    """
INSERT INTO billing_payment (gateway, provider_ref, currency, amount_minor, method, reason, recorded_by,
                             received_at, account_id)
SELECT 'sandbox', 'page-' || i.id, i.currency, i.total_minor, 'Visa', '', 'system', %(as_of)s, i.account_id
  FROM billing_invoice i WHERE i.account_id %% 10 < 6
""",
    """
INSERT INTO billing_allocation (amount_minor, invoice_id, payment_id)
SELECT i.total_minor, i.id, p.id
  FROM billing_invoice i JOIN billing_payment p ON p.account_id = i.account_id
""",
    """
INSERT INTO billing_step (run_id, account_id, kind, provider, state, priority, attempts, expected, because,
                          last_error, finished_at, run_at)
SELECT %(run)s, a.id, k.kind,
       CASE k.kind WHEN 'CHARGE' THEN 'sandbox' WHEN 'EMAIL' THEN 'smtp' ELSE '' END, s.state, 0, 0, '{}',
       CASE WHEN s.state = 'BLOCKED' AND k.kind = 'INVOICE' THEN 'no price for item ' || a.id %% 70
            WHEN s.state = 'BLOCKED' THEN 'its invoice step is blocked'
            WHEN k.kind = 'HOLD' AND s.state = 'READY' THEN 'not overdue yet' ELSE '' END, '',
       CASE WHEN s.state IN ('DONE', 'SKIPPED', 'BLOCKED') THEN %(as_of)s END,
       now() + CASE WHEN s.state = 'READY' AND k.kind <> 'INVOICE' THEN interval '10 days' ELSE interval '0' END
  FROM accounts_account a
 CROSS JOIN unnest(ARRAY['INVOICE','CHARGE','EMAIL','HOLD']) WITH ORDINALITY AS k(kind, place)
 CROSS JOIN LATERAL (SELECT CASE
            WHEN a.id %% 10 < 6 THEN CASE k.kind WHEN 'HOLD' THEN 'SKIPPED' ELSE 'DONE' END
            WHEN a.id %% 10 = 6 THEN (ARRAY['DONE','READY','DONE','WAITING'])[k.place]
            WHEN a.id %% 10 = 7 THEN 'BLOCKED'
            WHEN a.id %% 10 = 8 THEN (ARRAY['DONE','DONE','DONE','READY'])[k.place]
            ELSE (ARRAY['READY','WAITING','WAITING','WAITING'])[k.place] END AS state) AS s
 ORDER BY a.id, k.place
""",
    """
INSERT INTO billing_step (run_id, kind, state, priority, attempts, expected, because, last_error)
VALUES (%(run)s, 'REPORT', 'WAITING', 0, 0, '{}', '', '')
""",
    """
INSERT INTO billing_decision (act, did, because, expected, saw, world_changed, actor, account_id, run_id)
SELECT kind, state, 'as generated', '{}', '{}', account_id %% 100 = 0, 'system', account_id, run_id
  FROM billing_step WHERE state IN ('DONE', 'SKIPPED', 'BLOCKED')
""",
)


def build(*, accounts: int) -> CloseRun:
    """Fill an empty database with a close of so many accounts, nine tenths of it behind us."""
    entity = BillingEntity.objects.get(slug="default")
    run = CloseRun.objects.create(
        entity=entity, month=OCTOBER, started_by="a measurement", started_at=AS_OF
    )
    facts = {
        "accounts": accounts,
        "entity": entity.pk,
        "run": run.pk,
        "product": Product.objects.create(code="server", name="Server").pk,
        "month": OCTOBER,
        "as_of": AS_OF,
    }
    with connection.cursor() as cursor:
        for rows in ROWS:
            cursor.execute(rows, facts)
        cursor.execute("VACUUM ANALYZE")
    return run
