from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class BillingConfig(AppConfig):
    name = "billing"
    verbose_name = _("Billing")

    def ready(self) -> None:
        from billing import messages, money
        from notifications import formats

        messages.register()
        formats.use_exponents(money.exponent)
