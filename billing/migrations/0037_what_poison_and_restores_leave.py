"""
What is kept for a person: usage that could not be added up, and what a restore may have lost.

The release before writes no identity beside its sweeps: an empty one is no other database.
"""

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
        migrations.CreateModel(
            name="Restore",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("known_until", models.DateTimeField()),
                ("noticed_at", models.DateTimeField()),
                ("because", models.CharField(max_length=300)),
                ("dealt_with_at", models.DateTimeField(blank=True, null=True)),
                ("dealt_with_by", models.CharField(blank=True, max_length=254)),
            ],
            options={
                "indexes": [
                    models.Index(
                        condition=models.Q(("dealt_with_at", None)),
                        fields=["noticed_at"],
                        name="restores_open",
                    )
                ],
                "constraints": [
                    models.CheckConstraint(
                        condition=models.Q(
                            ("dealt_with_at", None),
                            models.Q(("dealt_with_by", ""), _negated=True),
                            _connector="OR",
                        ),
                        name="restore_dealt_with_says_by_whom",
                    )
                ],
            },
        ),
        migrations.AddField(
            model_name="sweep",
            name="database_identity",
            field=models.CharField(blank=True, db_default="", default="", max_length=100),
        ),
        migrations.AddField(
            model_name="sweep",
            name="silent_from",
            field=models.DateTimeField(blank=True, null=True),
        ),
        migrations.AddField(
            model_name="sweep",
            name="silent_until",
            field=models.DateTimeField(blank=True, null=True),
        ),
    ]
