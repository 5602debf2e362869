from django.db import migrations

# A payment and the credit that it left over were written in one transaction, so the n-th entry that
# left some is the n-th such credit of its account.
NAME_THE_PAYMENT = """
UPDATE billing_creditgrant grants SET payment_id = left_over.payment_id
  FROM (SELECT e.account_id, e.currency, split_part(e.source, ':', 2)::bigint AS payment_id,
               row_number() OVER (PARTITION BY e.account_id, e.currency ORDER BY e.id) AS n
          FROM billing_ledgerentry e
         WHERE e.kind = 'PAYMENT_RECEIVED'
           AND EXISTS (SELECT 1 FROM billing_posting p
                         JOIN billing_ledgeraccount l ON l.id = p.ledger_account_id
                        WHERE p.entry_id = e.id AND l.kind = 'CUSTOMER_CREDIT')) left_over
  JOIN (SELECT id, account_id, currency,
               row_number() OVER (PARTITION BY account_id, currency ORDER BY id) AS n
          FROM billing_creditgrant WHERE kind = 'SURPLUS') granted USING (account_id, currency, n)
 WHERE grants.id = granted.id
"""

APPEND_ONLY = """
CREATE TRIGGER paymentreversal_is_append_only BEFORE UPDATE OR DELETE ON billing_paymentreversal
    FOR EACH ROW EXECUTE FUNCTION refuse_change();
"""


class Migration(migrations.Migration):
    dependencies = [("billing", "0014_payments_that_go_back")]

    operations = [
        migrations.RunSQL(NAME_THE_PAYMENT, migrations.RunSQL.noop),
        migrations.RunSQL(APPEND_ONLY, migrations.RunSQL.noop),
    ]
