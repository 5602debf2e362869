from django.db import migrations

APPEND_ONLY = [
    "billing_ledgerentry",
    "billing_posting",
    "billing_decision",
    "billing_payment",
    "billing_allocation",
]

BALANCED = """
CREATE FUNCTION refuse_unbalanced_entry() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    entry bigint := CASE TG_TABLE_NAME WHEN 'billing_posting' THEN to_jsonb(NEW)->>'entry_id'
                                       ELSE to_jsonb(NEW)->>'id' END;
    postings integer;
    total bigint;
    mixed boolean;
BEGIN
    SELECT count(*), coalesce(sum(p.amount_minor), 0), coalesce(bool_or(a.currency <> e.currency), false)
      INTO postings, total, mixed
      FROM billing_ledgerentry e
      LEFT JOIN billing_posting p ON p.entry_id = e.id
      LEFT JOIN billing_ledgeraccount a ON a.id = p.ledger_account_id
     WHERE e.id = entry;
    IF postings < 2 OR total <> 0 THEN
        RAISE EXCEPTION 'ledger entry % does not sum to zero: % postings, sum %', entry, postings, total
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    IF mixed THEN
        RAISE EXCEPTION 'ledger entry % mixes currencies', entry
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NULL;
END $$;

CREATE CONSTRAINT TRIGGER entry_sums_to_zero AFTER INSERT ON billing_ledgerentry
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse_unbalanced_entry();
CREATE CONSTRAINT TRIGGER posting_keeps_its_entry_at_zero AFTER INSERT ON billing_posting
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse_unbalanced_entry();
"""

ISSUED_IS_FINAL = """
CREATE FUNCTION refuse_change_of_issued_invoice() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.state = 'ISSUED'
       AND (TG_OP = 'DELETE' OR to_jsonb(NEW) - 'settled_at' IS DISTINCT FROM to_jsonb(OLD) - 'settled_at')
    THEN
        RAISE EXCEPTION 'invoice % is issued and never changes', OLD.number
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END;
END $$;
CREATE TRIGGER issued_invoice_is_final BEFORE UPDATE OR DELETE ON billing_invoice
    FOR EACH ROW EXECUTE FUNCTION refuse_change_of_issued_invoice();

CREATE FUNCTION refuse_change_of_issued_lines() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT 1 FROM changed_lines l JOIN billing_invoice i ON i.id = l.invoice_id
                WHERE i.state = 'ISSUED') THEN
        RAISE EXCEPTION 'lines of an issued invoice never change'
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER no_line_joins_an_issued_invoice AFTER INSERT ON billing_lineitem
    REFERENCING NEW TABLE AS changed_lines FOR EACH STATEMENT EXECUTE FUNCTION refuse_change_of_issued_lines();
CREATE TRIGGER no_line_of_an_issued_invoice_changes AFTER UPDATE ON billing_lineitem
    REFERENCING OLD TABLE AS changed_lines FOR EACH STATEMENT EXECUTE FUNCTION refuse_change_of_issued_lines();
CREATE TRIGGER no_line_leaves_an_issued_invoice AFTER DELETE ON billing_lineitem
    REFERENCING OLD TABLE AS changed_lines FOR EACH STATEMENT EXECUTE FUNCTION refuse_change_of_issued_lines();

CREATE TRIGGER billed_summary_is_frozen BEFORE UPDATE OR DELETE ON billing_usagesummary
    FOR EACH ROW WHEN (OLD.invoice_id IS NOT NULL) EXECUTE FUNCTION refuse_change();
"""

# Rows that change state a few times each: room on the page lets the change stay there (HOT).
ROOM = """
ALTER TABLE billing_step SET (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05);
ALTER TABLE billing_paymentattempt SET (fillfactor = 70);
ALTER TABLE billing_usagesummary SET (fillfactor = 80);
"""


class Migration(migrations.Migration):
    dependencies = [("billing", "0002_partitioned_usage")]

    operations = [
        *(
            migrations.RunSQL(
                f"CREATE TRIGGER {table.removeprefix('billing_')}_is_append_only BEFORE UPDATE OR DELETE"
                f" ON {table} FOR EACH ROW EXECUTE FUNCTION refuse_change();",
                migrations.RunSQL.noop,
            )
            for table in APPEND_ONLY
        ),
        migrations.RunSQL(BALANCED, migrations.RunSQL.noop),
        migrations.RunSQL(ISSUED_IS_FINAL, migrations.RunSQL.noop),
        migrations.RunSQL(ROOM, migrations.RunSQL.noop),
    ]
