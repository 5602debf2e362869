from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("accounts", "0002_append_only_timeline_and_first_entity")]

    operations = [
        migrations.AlterModelOptions(
            name="account",
            options={
                "permissions": [
                    ("grant_credit", "Can grant credit"),
                    ("record_payment", "Can record a payment"),
                    ("charge_account", "Can charge an account now"),
                    ("place_hold", "Can place and lift holds by hand"),
                ]
            },
        ),
    ]
