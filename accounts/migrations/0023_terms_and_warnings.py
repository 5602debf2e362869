"""
New entities give 14 days, remind, warn, and hold a week after a warning that was delivered.

Those that are there keep their terms; they, too, hold nobody any more who was not warned. The entity that the
first migration made is new where nothing was done with it.
"""

from django.db import migrations, models


def give_terms_to_an_unused_one(apps, schema_editor):
    """An installation that begins with this release has not chosen to give no days."""
    if apps.get_model("accounts", "Account").objects.exists():
        return
    apps.get_model("accounts", "BillingEntity").objects.filter(
        slug="default", name="Month Close", invoice_prefix="MC", payment_terms_days=0
    ).update(payment_terms_days=14)


class Migration(migrations.Migration):
    dependencies = [("accounts", "0022_cards_can_be_gone")]

    operations = [
        migrations.AlterField(
            model_name="billingentity",
            name="payment_terms_days",
            field=models.PositiveSmallIntegerField(
                blank=True,
                default=14,
                help_text="Days from the day of issue to the last day to pay. Empty: due at once. A card on file is charged when the month is closed, whatever the terms.",
                null=True,
            ),
        ),
        migrations.AddField(
            model_name="billingentity",
            name="remind_days_before",
            field=models.PositiveSmallIntegerField(
                blank=True,
                db_default=3,
                default=3,
                help_text="Days before the due date on which who has not paid is reminded. Empty: nobody is.",
                null=True,
            ),
        ),
        migrations.AddField(
            model_name="billingentity",
            name="warn_days_after",
            field=models.PositiveSmallIntegerField(
                blank=True,
                db_default=1,
                default=1,
                help_text="Days after the due date on which who has not paid is told of the hold to come. Empty: as soon as it is over.",
                null=True,
            ),
        ),
        migrations.AddField(
            model_name="billingentity",
            name="grace_days",
            field=models.PositiveSmallIntegerField(
                blank=True,
                db_default=7,
                default=7,
                help_text="Days between that warning and the hold, counted from its delivery: who could not be warned is not held. Empty: nobody is warned, and the hold comes as soon as something is overdue and not tried again.",
                null=True,
            ),
        ),
        migrations.AddField(
            model_name="hold",
            name="grace_days",
            field=models.PositiveSmallIntegerField(blank=True, null=True),
        ),
        migrations.AddField(
            model_name="hold",
            name="warned_at",
            field=models.DateTimeField(blank=True, null=True),
        ),
        migrations.RunPython(give_terms_to_an_unused_one, migrations.RunPython.noop),
    ]
