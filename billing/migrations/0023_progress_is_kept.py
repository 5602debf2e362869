import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("billing", "0018_what_goes_back_twice_and_how_attempts_move"),
    ]

    operations = [
        migrations.CreateModel(
            name="RunProgress",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("counted_at", models.DateTimeField()),
                ("took_ms", models.PositiveIntegerField()),
                ("seen", models.JSONField()),
                ("samples", models.JSONField(default=list)),
                (
                    "run",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="progress",
                        to="billing.closerun",
                    ),
                ),
            ],
        ),
    ]
