"""Rows to test with. Each states only what the test is about; the rest is unremarkable."""

import uuid
from datetime import UTC, date, datetime
from decimal import Decimal

import factory

from accounts.models import Account, BillingEntity, Member, PaymentMethod, User
from billing.models import BillingPeriod, Price, Product, UsageSummary
from billing.models.usage import Kind
from billing.periods import ends_at, starts_at

OCTOBER = date(2018, 10, 1)
# Long after October 2018 is over everywhere, and before any sandbox card expires.
AS_OF = datetime(2018, 11, 2, 9, 0, tzinfo=UTC)


class UserFactory(factory.django.DjangoModelFactory):
    class Meta:
        model = User
        skip_postgeneration_save = True

    email = factory.Sequence("person{}@example.com".format)
    password = factory.PostGenerationMethodCall("set_password", "secret")

    @classmethod
    def _after_postgeneration(cls, instance, create, results=None):
        instance.save()


class EntityFactory(factory.django.DjangoModelFactory):
    """
    The entity of the first migration, which tests with real commits flush away.

    Due at once, without a retry schedule and a warning, unless told: who does not pay is held by the close itself, at
    once, so that tests about something else need not wait for the due date, and for the end of dunning.
    """

    class Meta:
        model = BillingEntity
        django_get_or_create = ("slug",)

    slug = "default"
    name = "Month Close"
    invoice_prefix = "MC"
    payment_terms_days: int | None = None
    retry_days: list[int] = []
    grace_days: int | None = None

    @classmethod
    def _create(cls, model_class, *args, **kwargs):
        # Also where the migration's row stands already, as it was made there.
        entity = super()._create(model_class, *args, **kwargs)
        rules_are_the_migrations = (entity.payment_terms_days, entity.grace_days) == (14, 7)
        is_new = rules_are_the_migrations and not entity.accounts.exists()
        terms = ("payment_terms_days", "grace_days") if is_new else ()
        rules = {name: kwargs[name] for name in ("retry_days", *terms)}
        if rules != {name: getattr(entity, name) for name in rules}:
            for name, value in rules.items():
                setattr(entity, name, value)
            entity.save(update_fields=list(rules))
        return entity


class AccountFactory(factory.django.DjangoModelFactory):
    class Meta:
        model = Account

    entity = factory.SubFactory(EntityFactory)
    external_id = factory.Sequence("acme-{}".format)
    name = "Acme"
    currency = "EUR"
    email = "books@acme.example"


class MemberFactory(factory.django.DjangoModelFactory):
    class Meta:
        model = Member

    account = factory.SubFactory(AccountFactory)
    user = factory.SubFactory(UserFactory)


class CardFactory(factory.django.DjangoModelFactory):
    """A card of the sandbox; it pays unless `token` says otherwise."""

    class Meta:
        model = PaymentMethod

    account = factory.SubFactory(AccountFactory)
    gateway = "sandbox"
    token = "sandbox_visa"
    brand = "Visa"
    last_four = "4242"
    expiry_month = 12
    expiry_year = 2035
    is_default = True


class MandateFactory(CardFactory):
    """A mandate of the direct-debit sandbox; its behaviour stands before the dot."""

    gateway = "debit"
    token = factory.LazyAttribute(lambda o: f"{o.behaviour}.{o.account.external_id}")
    brand = "Direct debit"
    last_four = "3000"
    expiry_month = None
    expiry_year = None
    mandate_status = "ACTIVE"

    class Params:
        behaviour = "debit_pays"


class ProductFactory(factory.django.DjangoModelFactory):
    class Meta:
        model = Product
        django_get_or_create = ("code",)

    code = "server"
    name = "Server"


class PriceFactory(factory.django.DjangoModelFactory):
    class Meta:
        model = Price

    product = factory.SubFactory(ProductFactory)
    unit = "hour"
    currency = "EUR"
    unit_price = Decimal("0.01")
    starts_at = datetime(2018, 1, 1, tzinfo=UTC)


class PeriodFactory(factory.django.DjangoModelFactory):
    class Meta:
        model = BillingPeriod
        django_get_or_create = ("account", "month")

    account = factory.SubFactory(AccountFactory)
    month = OCTOBER
    starts_at = factory.LazyAttribute(lambda o: starts_at(o.month, o.account.time_zone))
    ends_at = factory.LazyAttribute(lambda o: ends_at(o.month, o.account.time_zone))


class SummaryFactory(factory.django.DjangoModelFactory):
    """A month's usage that states its price: 10.00 unless told otherwise."""

    class Meta:
        model = UsageSummary

    account = factory.SubFactory(AccountFactory)
    period = factory.LazyAttribute(lambda o: PeriodFactory(account=o.account))
    product = factory.SubFactory(ProductFactory)
    kind = Kind.USAGE
    item = "small"
    unit = "hour"
    unit_price = Decimal("0.10")
    quantity = Decimal(100)
    events = 1
    first_at = factory.LazyAttribute(lambda o: o.period.starts_at)
    last_at = factory.LazyAttribute(lambda o: o.period.ends_at)


def account_using(
    amount: str, *, card: str | None = "sandbox_visa", **of_account: object
) -> Account:
    """An account that used this much, in major units, in October 2018; with a card unless None."""
    account: Account = AccountFactory(**of_account)
    SummaryFactory(account=account, quantity=Decimal(1), unit_price=Decimal(amount))
    if card is not None:
        CardFactory(account=account, token=card)
    return account


def token() -> uuid.UUID:
    """What a form carries so that sent twice is once."""
    return uuid.uuid4()
