from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("billing", "0043_least_amounts_to_begin_with"),
    ]

    operations = [
        migrations.AlterField(
            model_name="dunningcase",
            name="decline_class",
            field=models.CharField(
                choices=[
                    ("SOFT", "Temporary decline"),
                    ("NEEDS_CUSTOMER", "Needs the customer"),
                    ("STOP", "Never again"),
                    ("OURS", "Our set-up or request"),
                ],
                max_length=20,
            ),
        ),
        migrations.AlterField(
            model_name="paymentattempt",
            name="decline_class",
            field=models.CharField(
                blank=True,
                choices=[
                    ("SOFT", "Temporary decline"),
                    ("NEEDS_CUSTOMER", "Needs the customer"),
                    ("STOP", "Never again"),
                    ("OURS", "Our set-up or request"),
                ],
                max_length=20,
            ),
        ),
    ]
