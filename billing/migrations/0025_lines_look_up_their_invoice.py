from django.db import migrations

# By key, and once per invoice: as a join the planner may go over every issued invoice for every line.
BY_KEY = """
CREATE OR REPLACE FUNCTION refuse_change_of_issued_lines() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT 1 FROM (SELECT DISTINCT invoice_id FROM changed_lines) l
                WHERE (SELECT i.state FROM billing_invoice i WHERE i.id = l.invoice_id) = 'ISSUED') THEN
        RAISE EXCEPTION 'lines of an issued invoice never change'
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NULL;
END $$;
"""

AS_A_JOIN = """
CREATE OR REPLACE FUNCTION refuse_change_of_issued_lines() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT 1 FROM changed_lines l JOIN billing_invoice i ON i.id = l.invoice_id
                WHERE i.state = 'ISSUED') THEN
        RAISE EXCEPTION 'lines of an issued invoice never change'
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NULL;
END $$;
"""


class Migration(migrations.Migration):
    dependencies = [("billing", "0024_steps_that_met_trouble")]

    operations = [migrations.RunSQL(BY_KEY, AS_A_JOIN)]
