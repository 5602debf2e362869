"""A zone, a currency and a language are looked up before they are saved. The database does not change."""

from django.db import migrations, models

import accounts.validators


class Migration(migrations.Migration):
    dependencies = [
        ("accounts", "0011_timeline_has_one_index"),
    ]

    operations = [
        migrations.AlterField(
            model_name="account",
            name="currency",
            field=models.CharField(max_length=3, validators=[accounts.validators.check_currency]),
        ),
        migrations.AlterField(
            model_name="account",
            name="language",
            field=models.CharField(
                default="en", max_length=10, validators=[accounts.validators.check_language]
            ),
        ),
        migrations.AlterField(
            model_name="account",
            name="time_zone",
            field=models.CharField(
                default="UTC", max_length=64, validators=[accounts.validators.check_time_zone]
            ),
        ),
    ]
