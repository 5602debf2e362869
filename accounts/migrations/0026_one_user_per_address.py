from typing import Any

import django.db.models.functions.text
from django.db import migrations, models


def check_addresses(apps: Any, _schema_editor: Any) -> None:
    """Say whose addresses differ only in case, rather than fail at the index: a person decides who is who."""
    lowered = django.db.models.functions.text.Lower("email")
    twice = (
        apps.get_model("accounts", "User")
        .objects.values(lowered=lowered)
        .annotate(users=models.Count("pk"))
        .filter(users__gt=1)
        .order_by("lowered")
    )
    if found := [row["lowered"] for row in twice]:
        raise ValueError(
            f"Several users have one address, in another case: {', '.join(found)}. Change or deactivate"
            " and rename all but one of each in the admin, then migrate again."
        )


class Migration(migrations.Migration):
    dependencies = [("accounts", "0025_invitations_and_contacts")]

    operations = [
        migrations.RunPython(check_addresses, migrations.RunPython.noop),
        migrations.AddConstraint(
            model_name="user",
            constraint=models.UniqueConstraint(
                django.db.models.functions.text.Lower("email"),
                name="one_user_per_address_in_any_case",
                violation_error_message="There is a user with this email already.",
            ),
        ),
    ]
