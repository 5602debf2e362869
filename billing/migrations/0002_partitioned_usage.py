from django.db import migrations

# Django makes plain tables; this turns the empty one into a table partitioned by month.
# A sequence instead of an identity column: partitions carry identities only from PostgreSQL 17 on.
PARTITION = """
ALTER TABLE billing_usageevent RENAME TO billing_usageevent_plain;
CREATE TABLE billing_usageevent (
    LIKE billing_usageevent_plain INCLUDING DEFAULTS INCLUDING CONSTRAINTS
) PARTITION BY RANGE (effective_at);
DROP TABLE billing_usageevent_plain;
CREATE SEQUENCE billing_usageevent_id_seq CACHE 1000 OWNED BY billing_usageevent.id;
ALTER TABLE billing_usageevent
    ALTER COLUMN id SET DEFAULT nextval('billing_usageevent_id_seq'),
    ADD PRIMARY KEY (id, effective_at),
    ADD CONSTRAINT usage_event_stored_once UNIQUE (account_id, source, event_id, effective_at);
CREATE INDEX usage_events_of_a_batch ON billing_usageevent (batch_id);
CREATE TRIGGER usage_is_append_only BEFORE UPDATE OR DELETE ON billing_usageevent
    FOR EACH ROW EXECUTE FUNCTION refuse_change();
"""


class Migration(migrations.Migration):
    dependencies = [
        ("billing", "0001_initial"),
        ("accounts", "0002_append_only_timeline_and_first_entity"),
    ]

    operations = [migrations.RunSQL(PARTITION, migrations.RunSQL.noop)]
