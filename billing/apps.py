from django.apps import AppConfig
from django.db.models.signals import post_migrate, pre_migrate
from django.utils.translation import gettext_lazy as _


class BillingConfig(AppConfig):
    name = "billing"
    verbose_name = _("Billing")

    def ready(self) -> None:
        from django.conf import settings

        from billing import messages, money
        from billing.admin import groups
        from billing.books import schema
        from billing.close import pipeline
        from notifications import formats

        pipeline.install(settings.CLOSE_STEPS)
        messages.register()
        formats.use_exponents(money.exponent)
        money.use_writer(formats.money)
        pre_migrate.connect(schema.drop_before_migrating, sender=self)
        post_migrate.connect(schema.create_after_migrating, sender=self)
        post_migrate.connect(groups.create_groups, sender=self)
