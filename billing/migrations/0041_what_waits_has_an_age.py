import django.core.validators
from django.db import migrations, models
from django.db.models import Q


class Migration(migrations.Migration):
    dependencies = [("billing", "0040_attempts_end_without_a_card")]

    operations = [
        migrations.CreateModel(
            name="WaitingLimit",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("kind", models.CharField(max_length=40, unique=True)),
                (
                    "seconds",
                    models.PositiveIntegerField(
                        validators=[django.core.validators.MinValueValidator(60)]
                    ),
                ),
            ],
        ),
        migrations.CreateModel(
            name="WaitingOwner",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("kind", models.CharField(max_length=40)),
                ("ref", models.CharField(max_length=40)),
                ("owner", models.CharField(max_length=254)),
                ("taken_at", models.DateTimeField()),
            ],
            options={"verbose_name_plural": "needs a person"},
        ),
        migrations.AddConstraint(
            model_name="waitingowner",
            constraint=models.UniqueConstraint(
                fields=["kind", "ref"], name="one_owner_per_row_that_waits"
            ),
        ),
        migrations.AddField(
            model_name="step",
            name="unknown_since",
            field=models.DateTimeField(blank=True, null=True),
        ),
        migrations.AddIndex(
            model_name="paymentattempt",
            index=models.Index(
                fields=["unknown_since"],
                condition=Q(state="RELEASED", unknown_since__isnull=False),
                name="attempts_left_to_a_person",
            ),
        ),
    ]
