"""
Invoices say the day that they are due on, and there is a least amount to ask for.

What the release before issues has no such day, and is past due at the instant it says, as before.
"""

import django.db.models.deletion
from django.db import migrations, models
from django.db.models.functions import Now


class Migration(migrations.Migration):
    dependencies = [
        ("accounts", "0023_terms_and_warnings"),
        ("billing", "0041_what_waits_has_an_age"),
    ]

    operations = [
        migrations.AddField(
            model_name="invoice",
            name="due_date",
            field=models.DateField(blank=True, null=True),
        ),
        migrations.AddField(
            model_name="invoice",
            name="time_zone",
            field=models.CharField(blank=True, db_default="", default="", max_length=64),
        ),
        migrations.CreateModel(
            name="FollowUp",
            fields=[
                (
                    "account",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.CASCADE,
                        primary_key=True,
                        related_name="+",
                        serialize=False,
                        to="accounts.account",
                    ),
                ),
                ("look_at", models.DateTimeField()),
                ("because", models.CharField(blank=True, max_length=300)),
                ("created_at", models.DateTimeField(db_default=Now())),
            ],
            options={
                "indexes": [models.Index(fields=["look_at"], name="follow_ups_to_look_at")],
            },
        ),
        migrations.CreateModel(
            name="LeastAmount",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("currency", models.CharField(max_length=3)),
                (
                    "amount_minor",
                    models.BigIntegerField(
                        help_text="In minor units: 50 is EUR 0.50, JPY 50 and KWD 0.050."
                    ),
                ),
                ("changed_at", models.DateTimeField(auto_now=True, db_default=Now())),
                (
                    "entity",
                    models.ForeignKey(
                        blank=True,
                        help_text="Empty: for every entity that has none of its own in this currency.",
                        null=True,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="+",
                        to="accounts.billingentity",
                    ),
                ),
            ],
            options={
                "constraints": [
                    models.UniqueConstraint(
                        fields=("currency", "entity"),
                        name="one_least_amount_per_currency_and_entity",
                        nulls_distinct=False,
                    ),
                    models.CheckConstraint(
                        condition=models.Q(("amount_minor__gt", 0)),
                        name="least_amount_is_positive",
                    ),
                ],
            },
        ),
    ]
