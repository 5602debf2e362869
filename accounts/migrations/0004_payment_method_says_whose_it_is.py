from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("accounts", "0003_permissions"),
    ]

    operations = [
        migrations.AddField(
            model_name="paymentmethod",
            name="customer_ref",
            field=models.CharField(blank=True, default="", max_length=200),
            preserve_default=False,
        ),
    ]
