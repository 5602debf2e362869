"""The check: one snapshot, nothing written, no false alarm while a close runs."""

import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from threading import Thread

import pytest
from django.core.management import call_command
from django.db import connection, connections

from billing import books, gateways
from billing.books import BookUnreadable, ViewsMissing, schema
from billing.gateways import Observation, Status
from billing.gateways.standins.sandbox import SandboxGateway
from billing.models import NumberSeries, Payment, PaymentAttempt, ProviderRecord
from billing.payments import charges
from tests.billing.books.healthy import Month
from tests.factories import AS_OF, AccountFactory, CardFactory, EntityFactory

pytestmark = pytest.mark.django_db(transaction=True)


def broken(*, as_of: datetime = AS_OF) -> set[str]:
    return {finding.promise.name for finding in books.check(as_of=as_of)}


def elsewhere(act: Callable[[], object]) -> None:
    """Do this in another process's place: its own connection, its own commits."""

    def work() -> None:
        act()
        connections.close_all()

    thread = Thread(target=work)
    thread.start()
    thread.join()


def reserved() -> PaymentAttempt:
    account = AccountFactory()
    return PaymentAttempt.objects.create(
        account=account,
        kind=PaymentAttempt.Kind.AUTO,
        currency="EUR",
        amount_minor=1000,
        payment_method=CardFactory(account=account),
        gateway="sandbox",
        next_action_at=AS_OF,
    )


def success(own_reference: str) -> Observation:
    return Observation("sb_1", own_reference, Status.SUCCEEDED, 1000, "EUR")


class Provider:
    """A provider whose book is whatever it is when it is read."""

    def __init__(self, book: Callable[[], Iterator[Observation]]) -> None:
        self.book = book


@pytest.fixture
def provider(monkeypatch):
    def use(book: Callable[[], Iterator[Observation]]) -> None:
        monkeypatch.setattr(gateways, "get", lambda _: Provider(book))

    return use


class TestWhileACloseRuns:
    def test_no_promise_is_broken_at_any_commit(self):
        def look(as_of: datetime) -> None:
            assert broken(as_of=as_of) == set()

        Month(looked=look).build()

    def test_nor_while_the_provider_is_being_asked(self, monkeypatch):
        looked = []

        def looking(call: Callable[..., Observation]) -> Callable[..., Observation]:
            def look(*args: object, **kwargs: object) -> Observation:
                looked.append(broken(as_of=month.now))
                try:
                    return call(*args, **kwargs)
                finally:
                    looked.append(broken(as_of=month.now))
                    connections.close_all()

            return look

        month = Month()
        for name in ("prepare", "submit", "cancel"):
            monkeypatch.setattr(SandboxGateway, name, looking(getattr(SandboxGateway, name)))

        month.build()

        assert len(looked) > 50
        assert not any(looked)


class TestTheSnapshot:
    def test_nothing_is_written_even_when_something_is_broken(self):
        NumberSeries.objects.create(entity=EntityFactory(), next_number=5)

        [finding] = books.check(as_of=AS_OF)

        assert finding.promise.name == "book_invoice_number_series_is_current"
        assert finding.rows == [
            {"entity_id": EntityFactory().pk, "next_number": 5, "last_sequence": 0}
        ]
        assert not ProviderRecord.objects.exists()

    def test_an_attempt_that_began_since_is_left_to_the_next_check(self, provider):
        def book() -> Iterator[Observation]:
            begun = []
            elsewhere(lambda: begun.append(reserved()))
            yield success(str(begun[0].pk))

        provider(book)

        assert broken() == set()

    def test_an_object_that_nobody_made_is_not(self, provider):
        provider(lambda: iter([success(str(uuid.uuid4()))]))

        assert broken() == {"book_provider_object_is_ours"}

    def test_a_success_that_is_booked_since_is_in_flight_still(self, provider):
        attempt = reserved()

        def book() -> Iterator[Observation]:
            seen = {attempt.pk: success(str(attempt.pk))}
            elsewhere(lambda: charges.apply_provider_state(seen, as_of=AS_OF))
            assert Payment.objects.using("default").count() == 0, "the snapshot stands"
            yield from seen.values()

        provider(book)

        assert broken() == set()
        assert Payment.objects.count() == 1

    def test_time_is_the_askers(self):
        attempt = reserved()

        later = attempt.next_action_at + timedelta(minutes=16)

        assert broken(as_of=attempt.next_action_at) == set()
        assert broken(as_of=later) == {"book_payment_attempt_is_not_left_in_doubt"}

    def test_and_now_for_a_person_at_a_prompt(self):
        reserved()

        with connection.cursor() as cursor:
            cursor.execute("SELECT as_of = now() FROM books_clock")
            assert cursor.fetchone() == (True,)
            cursor.execute("SELECT count(*) FROM book_payment_attempt_is_not_left_in_doubt")
            assert cursor.fetchone() == (1,)


class TestTheProvidersBook:
    def test_may_list_an_object_twice(self, provider):
        attempt = reserved()
        provider(lambda: iter(2 * [success(str(attempt.pk))]))

        assert broken() == set()

    def test_that_cannot_be_read_leaves_nothing_checked(self, provider):
        def book() -> Iterator[Observation]:
            raise gateways.OutcomeUnknown("no answer")

        provider(book)

        with pytest.raises(
            BookUnreadable, match=r"the book of sandbox cannot be read: .*no answer"
        ):
            books.check(as_of=AS_OF)

    def test_is_missed_where_payments_came_through_it_and_it_is_no_more(self):
        Payment.objects.create(
            account=AccountFactory(),
            gateway="bygone",
            provider_ref="1",
            currency="EUR",
            amount_minor=1,
            method="Visa",
            received_at=AS_OF,
        )

        with pytest.raises(BookUnreadable, match="the book of bygone"):
            books.check(as_of=AS_OF)

    def test_is_not_asked_for_where_no_promise_is_about_it(self, provider):
        provider(lambda: pytest.fail("it was read"))

        assert books.check(as_of=AS_OF, only=["book_ledger_sums_to_zero"]) == []


class TestTheCheck:
    def test_tells_of_each_promise_when_it_has_looked(self):
        told = []

        books.check(as_of=AS_OF, on_progress=told.append)

        assert told == books.promises()

    def test_keeps_the_first_rows_and_counts_all(self):
        for number in range(103):
            entity = EntityFactory(slug=f"e{number}", invoice_prefix=f"E{number}")
            NumberSeries.objects.create(entity=entity, next_number=5)

        [finding] = books.check(as_of=AS_OF)

        assert finding.count == 103
        assert len(finding.rows) == 100

    def test_without_its_views_says_to_migrate(self):
        schema.drop_before_migrating(using="default", plan=["something"])
        try:
            with pytest.raises(ViewsMissing, match=r"manage\.py migrate"):
                books.check(as_of=datetime.now(tz=UTC))
        finally:
            call_command("migrate", verbosity=0)

        assert broken() == set()
