"""An account whose usage cannot be added up stops no other: its usage is left, and listed."""

import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("accounts", "0020_accounts_say_what_exists"),
        ("billing", "0028_rejected_rows_are_kept"),
    ]

    operations = [
        migrations.CreateModel(
            name="UntalliedUsage",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("because", models.CharField(max_length=300)),
                ("noted_at", models.DateTimeField()),
                ("again_at", models.DateTimeField()),
                (
                    "account",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="untallied_usage",
                        to="accounts.account",
                    ),
                ),
                (
                    "batch",
                    models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="untallied",
                        to="billing.usagebatch",
                    ),
                ),
            ],
            options={
                "verbose_name_plural": "usage that could not be added up",
                "constraints": [
                    models.UniqueConstraint(fields=("batch", "account"), name="usage_left_once")
                ],
            },
        ),
    ]
