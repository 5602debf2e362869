from django.db import migrations, models
from django.db.models import Q


class Migration(migrations.Migration):
    dependencies = [
        ("billing", "0021_fences_deaths_and_halts"),
    ]

    operations = [
        migrations.AddIndex(
            model_name="step",
            index=models.Index(
                fields=["run"],
                condition=Q(fenced__gt=0) | Q(deaths__gt=0),
                name="steps_that_met_trouble",
            ),
        ),
    ]
