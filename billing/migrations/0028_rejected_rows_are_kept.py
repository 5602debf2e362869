"""
Rows that an import rejected are kept until they come again or are set aside.

What the release before rejects is listed in its file alone, as it was.
"""

import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("billing", "0027_what_the_bank_says_is_what_it_is"),
    ]

    operations = [
        migrations.CreateModel(
            name="RejectedRow",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("number", models.BigIntegerField()),
                ("field", models.CharField(max_length=200)),
                ("account", models.CharField(blank=True, max_length=200)),
                ("event_id", models.CharField(blank=True, max_length=200)),
                ("currency", models.CharField(blank=True, max_length=3)),
                (
                    "amount",
                    models.DecimalField(blank=True, decimal_places=15, max_digits=30, null=True),
                ),
                ("month", models.DateField(blank=True, null=True)),
            ],
        ),
        migrations.AlterModelOptions(
            name="usagebatch",
            options={
                "permissions": [("set_aside_rejects", "Can set rejected rows of usage aside")],
                "verbose_name_plural": "usage batches",
            },
        ),
        migrations.AddField(
            model_name="usagebatch",
            name="rejects_file",
            field=models.CharField(blank=True, db_default="", default="", max_length=500),
        ),
        migrations.AddField(
            model_name="usagebatch",
            name="set_aside_at",
            field=models.DateTimeField(blank=True, null=True),
        ),
        migrations.AddField(
            model_name="usagebatch",
            name="set_aside_because",
            field=models.CharField(blank=True, db_default="", default="", max_length=300),
        ),
        migrations.AddField(
            model_name="usagebatch",
            name="set_aside_by",
            field=models.CharField(blank=True, db_default="", default="", max_length=254),
        ),
        migrations.AddConstraint(
            model_name="usagebatch",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    ("set_aside_at", None),
                    models.Q(
                        ("set_aside_by", ""),
                        ("set_aside_because", ""),
                        _connector="OR",
                        _negated=True,
                    ),
                    _connector="OR",
                ),
                name="rejects_set_aside_say_who_and_why",
            ),
        ),
        migrations.AddField(
            model_name="rejectedrow",
            name="again_in",
            field=models.ForeignKey(
                blank=True,
                db_index=False,
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="follows_up",
                to="billing.usagebatch",
            ),
        ),
        migrations.AddField(
            model_name="rejectedrow",
            name="batch",
            field=models.ForeignKey(
                db_index=False,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="rejected_rows",
                to="billing.usagebatch",
            ),
        ),
        migrations.AddIndex(
            model_name="rejectedrow",
            index=models.Index(
                condition=models.Q(("again_in", None)),
                fields=["batch"],
                name="rejected_rows_that_wait",
            ),
        ),
        migrations.AddConstraint(
            model_name="rejectedrow",
            constraint=models.UniqueConstraint(
                fields=("batch", "number"), name="rejected_row_is_kept_once"
            ),
        ),
        migrations.AddConstraint(
            model_name="rejectedrow",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    ("again_in", None),
                    models.Q(("again_in", models.F("batch")), _negated=True),
                    _connector="OR",
                ),
                name="rejected_row_comes_again_in_another_import",
            ),
        ),
    ]
