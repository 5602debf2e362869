from django.db import migrations, models


class Migration(migrations.Migration):
    """Wider columns alone: nothing is rewritten, and the release before writes into them as ever."""

    dependencies = [("billing", "0025_lines_look_up_their_invoice")]

    operations = [
        migrations.AlterField("step", "kind", models.CharField(max_length=50)),
        migrations.AlterField("contribution", "kind", models.CharField(max_length=50)),
        migrations.AlterField("decision", "act", models.CharField(max_length=50)),
        # Comma separated queues: an installation may have more of them now.
        migrations.AlterField("executor", "lanes", models.CharField(max_length=2000)),
    ]
