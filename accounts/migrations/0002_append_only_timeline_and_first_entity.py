from django.db import migrations

# The one function that every append-only table of this project calls.
REFUSE = """
CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only: correct it by adding a row', TG_TABLE_NAME
        USING ERRCODE = 'integrity_constraint_violation';
END $$;

CREATE TRIGGER timeline_is_append_only BEFORE UPDATE OR DELETE ON accounts_timelineevent
    FOR EACH ROW EXECUTE FUNCTION refuse_change();
"""


def create_first_entity(apps, schema_editor):
    """An installation bills for one entity until a second is added; usage files need it from the start."""
    apps.get_model("accounts", "BillingEntity").objects.create(
        slug="default", name="Month Close", invoice_prefix="MC"
    )


class Migration(migrations.Migration):
    dependencies = [("accounts", "0001_initial")]

    operations = [
        migrations.RunSQL(
            REFUSE,
            "DROP TRIGGER timeline_is_append_only ON accounts_timelineevent; DROP FUNCTION refuse_change();",
        ),
        migrations.RunPython(create_first_entity, migrations.RunPython.noop),
    ]
