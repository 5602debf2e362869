"""
A bank transfer is known by all that the bank says of it, and by the how-manieth of equal ones it is.

The bank's id alone is unique no more: banks use their ids anew. What the release before stores gets
the new columns' defaults, and the new constraint keeps it from storing a transfer twice as well.
"""

import django.db.models.deletion
import django.db.models.functions.datetime
import django.db.models.functions.text
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("accounts", "0011_timeline_has_one_index"),
        ("billing", "0026_step_kinds_are_open"),
    ]

    operations = [
        migrations.CreateModel(
            name="BankStatement",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("name", models.CharField(max_length=300)),
                ("sha256", models.CharField(max_length=64)),
                (
                    "imported_at",
                    models.DateTimeField(db_default=django.db.models.functions.datetime.Now()),
                ),
            ],
        ),
        migrations.CreateModel(
            name="RepeatedTransfer",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("file", models.CharField(max_length=300)),
                ("line", models.IntegerField()),
            ],
        ),
        migrations.AddField(
            model_name="incomingtransfer",
            name="bank_account",
            field=models.CharField(blank=True, db_default="", default="", max_length=64),
        ),
        migrations.AddField(
            model_name="incomingtransfer",
            name="ordinal",
            field=models.PositiveIntegerField(db_default=1, default=1),
        ),
        migrations.AddField(
            model_name="incomingtransfer",
            name="resembles",
            field=models.ForeignKey(
                blank=True,
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="+",
                to="billing.payment",
            ),
        ),
        migrations.AddField(
            model_name="incomingtransfer",
            name="suggested_account",
            field=models.ForeignKey(
                blank=True,
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="+",
                to="accounts.account",
            ),
        ),
        migrations.AlterField(
            model_name="incomingtransfer",
            name="bank_ref",
            field=models.CharField(max_length=140),
        ),
        migrations.AlterField(
            model_name="incomingtransfer",
            name="state",
            field=models.CharField(
                choices=[
                    ("WAITING", "Waiting for a person"),
                    ("BOOKED", "Booked"),
                    ("RECORDED", "Recorded before"),
                    ("NOT_OURS", "Not ours"),
                ],
                default="WAITING",
                max_length=10,
            ),
        ),
        migrations.AddField(
            model_name="incomingtransfer",
            name="statement",
            field=models.ForeignKey(
                blank=True,
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="transfers",
                to="billing.bankstatement",
            ),
        ),
        migrations.AddConstraint(
            model_name="incomingtransfer",
            constraint=models.UniqueConstraint(
                models.F("bank_ref"),
                models.F("received_on"),
                models.F("amount_minor"),
                models.F("currency"),
                models.F("bank_account"),
                django.db.models.functions.text.MD5("reference"),
                django.db.models.functions.text.MD5("payer"),
                models.F("ordinal"),
                name="transfer_is_stored_once",
            ),
        ),
        migrations.AddConstraint(
            model_name="incomingtransfer",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    models.Q(("state", "RECORDED"), _negated=True),
                    ("resembles__isnull", False),
                    _connector="OR",
                ),
                name="recorded_transfer_names_its_payment",
            ),
        ),
        migrations.AddConstraint(
            model_name="incomingtransfer",
            constraint=models.UniqueConstraint(
                condition=models.Q(("state", "RECORDED")),
                fields=("resembles",),
                name="payment_recorded_before_is_one_transfer",
            ),
        ),
        migrations.AddField(
            model_name="repeatedtransfer",
            name="counted_apart_as",
            field=models.OneToOneField(
                blank=True,
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="+",
                to="billing.incomingtransfer",
            ),
        ),
        migrations.AddField(
            model_name="repeatedtransfer",
            name="statement",
            field=models.ForeignKey(
                on_delete=django.db.models.deletion.PROTECT,
                related_name="repeated_transfers",
                to="billing.bankstatement",
            ),
        ),
        migrations.AddField(
            model_name="repeatedtransfer",
            name="transfer",
            field=models.ForeignKey(
                on_delete=django.db.models.deletion.PROTECT,
                related_name="repeated_by",
                to="billing.incomingtransfer",
            ),
        ),
    ]
