from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("accounts", "0021_sign_in_tries_and_closing")]

    operations = [
        migrations.AddField(
            model_name="account",
            name="charges_other_cards",
            field=models.BooleanField(
                db_default=False,
                default=False,
                verbose_name="charge another card once the default one is gone at its provider",
            ),
        ),
        migrations.AddField(
            model_name="paymentmethod",
            name="gone_at",
            field=models.DateTimeField(blank=True, null=True),
        ),
    ]
