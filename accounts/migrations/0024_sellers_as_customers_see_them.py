import django.core.validators
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("accounts", "0023_terms_and_warnings"),
    ]

    operations = [
        migrations.AddField(
            model_name="billingentity",
            name="display_name",
            field=models.CharField(
                blank=True,
                db_default="",
                default="",
                help_text="What customers know the seller by, if not by the name above.",
                max_length=200,
            ),
        ),
        migrations.AddField(
            model_name="billingentity",
            name="help_link",
            field=models.CharField(
                blank=True,
                db_default="",
                default="",
                help_text="Where customers get help: https://example.com/help or mailto:help@example.com.",
                max_length=300,
                validators=[
                    django.core.validators.RegexValidator(
                        "^(https://|mailto:|tel:)\\S+$",
                        "Enter a link that begins with https://, mailto: or tel:.",
                    )
                ],
            ),
        ),
        migrations.AddField(
            model_name="billingentity",
            name="logo_url",
            field=models.URLField(
                blank=True,
                db_default="",
                default="",
                help_text="Where the seller's logo is, such as https://example.com/logo.png. Mails link to it as well.",
                validators=[
                    django.core.validators.RegexValidator(
                        "^https://", "Enter an address that begins with https://."
                    )
                ],
                verbose_name="logo",
            ),
        ),
    ]
