from django.db import migrations, models

# As in billing/charge_protocol.py when this was written; a test holds the two against each other.
# What could not be prepared, because its card is gone, is declined: FAILED from RESERVED as well.
ATTEMPTS_MOVE = """
CREATE OR REPLACE FUNCTION refuse_unknown_change_of_attempt() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT (CASE NEW.state
           WHEN 'SUCCEEDED' THEN true
           WHEN 'REVIEW' THEN true
           WHEN 'PREPARED' THEN OLD.state = 'RESERVED'
           WHEN 'SUBMITTED' THEN OLD.state = 'PREPARED'
           WHEN 'RELEASED' THEN OLD.state IN
                ('RESERVED', 'PREPARED', 'SUBMITTED', 'PROCESSING', 'REQUIRES_ACTION', 'CANCELING', 'REVIEW')
           WHEN 'FAILED' THEN OLD.state IN
                (FAILED_FROM'PREPARED', 'SUBMITTED', 'PROCESSING', 'REQUIRES_ACTION', 'CANCELING', 'REVIEW')
           WHEN 'RESERVED' THEN false
           ELSE OLD.state IN ('PREPARED', 'SUBMITTED', 'PROCESSING', 'REQUIRES_ACTION', 'CANCELING', 'REVIEW')
           END) THEN
        RAISE EXCEPTION 'a payment attempt does not go from % to %: %', OLD.state, NEW.state, OLD.id
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END $$;
"""
NOW = ATTEMPTS_MOVE.replace("FAILED_FROM", "'RESERVED', ")
BEFORE = ATTEMPTS_MOVE.replace("FAILED_FROM", "")


class Migration(migrations.Migration):
    dependencies = [("billing", "0039_attempts_and_refunds_are_dispatched")]

    operations = [
        migrations.RunSQL(NOW, BEFORE),
        migrations.AddField(
            model_name="sweep",
            name="stopped_at",
            field=models.CharField(blank=True, db_default="", default="", max_length=30),
        ),
    ]
