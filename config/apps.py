"""What the project does once when it starts."""

from django.apps import AppConfig
from django.core import checks as system_checks
from django.db.backends.signals import connection_created


class ConfigConfig(AppConfig):
    """The project itself."""

    name = "config"

    def ready(self) -> None:
        """Look at every database before the first query reaches it; keep django-q in its place; load what is dispatched."""
        from config import checks_gateways, checks_pooler, checks_q, checks_restore, q_admin
        from config.checks import refuse_unsafe_database
        from notifications import dispatcher

        connection_created.connect(refuse_unsafe_database, dispatch_uid="config.checks")
        system_checks.register(checks_q.lease_outlives_the_queue)
        system_checks.register(checks_pooler.pooler_fits_the_settings)
        system_checks.register(checks_pooler.pooled_sessions_end, system_checks.Tags.database)
        system_checks.register(checks_restore.nothing_stands_twice, system_checks.Tags.database)
        system_checks.register(checks_gateways.gateways_are_set_up)
        system_checks.register(
            checks_gateways.nothing_is_in_flight_where_nobody_asks, system_checks.Tags.database
        )
        system_checks.register(checks_gateways.pretended_money_is_a_trial, deploy=True)
        q_admin.unregister()
        # One that is not there is noticed now, and not by its first row.
        dispatcher.registered()
