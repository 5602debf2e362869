from django.db import migrations, models
from django.db.models import F, Q

# As in billing/charge_protocol.py when this was written; a test holds the two against each other.
# A success is booked from any state, and a person may be needed in any.
ATTEMPTS_MOVE = """
CREATE FUNCTION refuse_unknown_change_of_attempt() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT (CASE NEW.state
           WHEN 'SUCCEEDED' THEN true
           WHEN 'REVIEW' THEN true
           WHEN 'PREPARED' THEN OLD.state = 'RESERVED'
           WHEN 'SUBMITTED' THEN OLD.state = 'PREPARED'
           WHEN 'RELEASED' THEN OLD.state IN
                ('RESERVED', 'PREPARED', 'SUBMITTED', 'PROCESSING', 'REQUIRES_ACTION', 'CANCELING', 'REVIEW')
           WHEN 'RESERVED' THEN false
           ELSE OLD.state IN ('PREPARED', 'SUBMITTED', 'PROCESSING', 'REQUIRES_ACTION', 'CANCELING', 'REVIEW')
           END) THEN
        RAISE EXCEPTION 'a payment attempt does not go from % to %: %', OLD.state, NEW.state, OLD.id
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER attempt_moves_as_the_protocol_says BEFORE UPDATE OF state ON billing_paymentattempt
    FOR EACH ROW WHEN (OLD.state IS DISTINCT FROM NEW.state)
    EXECUTE FUNCTION refuse_unknown_change_of_attempt();
"""
AS_THEY_LIKE = """
DROP TRIGGER attempt_moves_as_the_protocol_says ON billing_paymentattempt;
DROP FUNCTION refuse_unknown_change_of_attempt();
"""


class Migration(migrations.Migration):
    dependencies = [("billing", "0022_executors")]

    operations = [
        migrations.AlterField(
            model_name="ledgerentry",
            name="kind",
            field=models.CharField(
                choices=[
                    ("INVOICE_ISSUED", "Invoice issued"),
                    ("CREDIT_GRANTED", "Credit granted"),
                    ("CREDIT_APPLIED", "Credit applied"),
                    ("CREDIT_EXPIRED", "Credit expired"),
                    ("PAYMENT_RECEIVED", "Payment received"),
                    ("PAYMENT_REVERSED", "Payment reversed"),
                    ("DISPUTE_OPENED", "Dispute opened"),
                    ("DISPUTE_WON", "Dispute won"),
                    ("REFUND_RESERVED", "Refund reserved"),
                    ("REFUND_SENT", "Refund sent"),
                    ("REFUND_UNDONE", "Refund undone"),
                    ("REFUND_RETURNED", "Refund returned"),
                    ("REFUND_FROM_CREDIT", "Refund taken of credit"),
                ],
                max_length=30,
            ),
        ),
        migrations.AddField(
            model_name="refund", name="lost_minor", field=models.BigIntegerField(default=0)
        ),
        migrations.AddConstraint(
            model_name="refund",
            constraint=models.CheckConstraint(
                condition=Q(lost_minor=0)
                | Q(
                    lost_minor__gt=0,
                    lost_minor__lte=F("credit_minor"),
                    state__in=["FAILED", "RETURNED"],
                ),
                name="refund_loses_no_more_than_its_credit",
            ),
        ),
        migrations.RunSQL(ATTEMPTS_MOVE, AS_THEY_LIKE),
    ]
