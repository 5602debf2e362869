"""Tries to sign in are counted before a password is looked at; closing an account has a permission."""

from django.db import migrations, models
from django.db.models.functions import Now


class Migration(migrations.Migration):
    dependencies = [
        ("accounts", "0020_accounts_say_what_exists"),
    ]

    operations = [
        migrations.AlterModelOptions(
            name="account",
            options={
                "permissions": [
                    ("grant_credit", "Can grant credit"),
                    ("record_payment", "Can record a payment"),
                    ("charge_account", "Can charge an account now"),
                    ("refund_payment", "Can pay money back"),
                    ("place_hold", "Can place and lift holds by hand"),
                    ("pause_charging", "Can pause charging an account, and resume it"),
                    ("close_account", "Can close an account, and open it again"),
                ]
            },
        ),
        migrations.CreateModel(
            name="SignInTries",
            fields=[
                ("key", models.CharField(max_length=64, primary_key=True, serialize=False)),
                ("tries", models.PositiveIntegerField()),
                ("since", models.DateTimeField(db_default=Now(), db_index=True)),
            ],
        ),
    ]
