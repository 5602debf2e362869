"""Cards: added once, one default by choice, removed for good."""

from datetime import UTC, datetime, timedelta

import pytest

from accounts.models import PaymentMethod, TimelineEvent
from billing.gateways import Method, Misconfigured
from billing.payments import methods
from billing.payments.methods import AlreadyAdded, CardBlocked, CardExpired, NoSuchCard
from tests.factories import AS_OF, AccountFactory, CardFactory

pytestmark = pytest.mark.django_db


def add(account, **details):
    card = {
        "gateway": "sandbox",
        "token": "sandbox_visa",
        "brand": "Visa",
        "last_four": "4242",
        "expiry_month": 12,
        "expiry_year": 2035,
    }
    return methods.add_card(
        account_id=account.pk, actor="ann@example.com", as_of=AS_OF, **(card | details)
    )


def default_of(account):
    return PaymentMethod.objects.filter(account=account, is_default=True).first()


def told(account):
    return [(e.kind, e.actor) for e in TimelineEvent.objects.filter(account=account).order_by("pk")]


class TestAddCard:
    def test_makes_the_first_card_the_default(self):
        account = AccountFactory()

        card = add(account)

        assert default_of(account) == card
        assert told(account) == [
            ("card.added", "ann@example.com"),
            ("card.default", "ann@example.com"),
        ]

    def test_leaves_the_default_alone_unless_asked(self):
        account = AccountFactory()
        first = add(account)

        add(account, token="sandbox_mastercard", last_four="4444")

        assert default_of(account) == first

    def test_makes_a_later_card_the_default_if_asked(self):
        account = AccountFactory()
        add(account)

        second = add(account, token="sandbox_mastercard", make_default=True)

        assert default_of(account) == second

    def test_twice_is_the_same_as_once(self):
        account = AccountFactory()
        first = add(account)

        with pytest.raises(AlreadyAdded) as refused:
            add(account)

        assert refused.value.method == first
        assert PaymentMethod.objects.filter(account=account).count() == 1

    def test_takes_a_card_back_that_was_removed(self):
        account = AccountFactory()
        first = add(account)
        methods.remove_card(
            account_id=account.pk, method_id=first.pk, actor="ann@example.com", as_of=AS_OF
        )

        second = add(account)

        assert default_of(account) == second != first

    def test_refuses_a_card_whose_last_month_is_over(self):
        account = AccountFactory()

        with pytest.raises(CardExpired, match="09/2018"):
            add(account, expiry_month=9, expiry_year=2018)

        assert not PaymentMethod.objects.exists()

    def test_refuses_a_gateway_we_do_not_have(self):
        with pytest.raises(Misconfigured):
            add(AccountFactory(), gateway="nobank")


class TestMakeDefault:
    def test_moves_the_default(self):
        account = AccountFactory()
        CardFactory(account=account)
        other = CardFactory(account=account, token="sandbox_mastercard", is_default=False)

        methods.make_default(account_id=account.pk, method_id=other.pk, actor="a", as_of=AS_OF)

        assert default_of(account) == other

    def test_twice_is_the_same_as_once(self):
        account = AccountFactory()
        card = CardFactory(account=account)

        methods.make_default(account_id=account.pk, method_id=card.pk, actor="a", as_of=AS_OF)

        assert default_of(account) == card
        assert told(account) == []

    def test_refuses_another_accounts_card(self):
        with pytest.raises(NoSuchCard):
            methods.make_default(
                account_id=AccountFactory().pk, method_id=CardFactory().pk, actor="a", as_of=AS_OF
            )


class TestRemoveCard:
    def test_no_other_card_takes_its_place_by_itself(self):
        account = AccountFactory()
        card = CardFactory(account=account)
        CardFactory(account=account, token="sandbox_mastercard", is_default=False)

        methods.remove_card(account_id=account.pk, method_id=card.pk, actor="a", as_of=AS_OF)

        card.refresh_from_db()
        assert (card.state, card.removed_at) == ("REMOVED", AS_OF)
        assert default_of(account) is None
        assert told(account) == [("card.removed", "a")]

    def test_refuses_a_card_that_was_removed(self):
        card = CardFactory(
            is_default=False, state="REMOVED", removed_at=datetime(2018, 1, 1, tzinfo=UTC)
        )

        with pytest.raises(NoSuchCard):
            methods.remove_card(
                account_id=card.account_id, method_id=card.pk, actor="a", as_of=AS_OF
            )


class TestLoseCard:
    def test_twice_is_the_same_as_once(self):
        """As where two charges of the same card find out at once."""
        card = CardFactory(account__charges_other_cards=True)
        other = CardFactory(account=card.account, token="sandbox_mastercard", is_default=False)

        assert methods.lose_card(card, as_of=AS_OF) == other
        assert methods.lose_card(card, as_of=AS_OF + timedelta(hours=1)) is None

        card.refresh_from_db()
        assert (card.state, card.gone_at) == ("REMOVED", AS_OF)
        assert default_of(card.account) == other
        assert [kind for kind, _ in told(card.account)].count("card.removed") == 1


class TestBlockedCards:
    @pytest.fixture
    def blocked(self):
        card = CardFactory()
        methods.block_card(card, because="its bank said lost_card", as_of=AS_OF)
        card.refresh_from_db()
        return card

    def test_twice_is_the_same_as_once(self, blocked):
        methods.block_card(blocked, because="another reason", as_of=AS_OF)

        blocked.refresh_from_db()
        assert (blocked.blocked_because, told(blocked.account)) == (
            "its bank said lost_card",
            [("card.blocked", "system")],
        )

    def test_are_not_made_the_default_again(self, blocked):
        with pytest.raises(NoSuchCard):
            methods.make_default(
                account_id=blocked.account_id, method_id=blocked.pk, actor="a", as_of=AS_OF
            )

    def test_are_not_made_the_default_of_another_account(self, blocked):
        same = CardFactory(is_default=False)

        with pytest.raises(CardBlocked):
            methods.make_default(
                account_id=same.account_id, method_id=same.pk, actor="a", as_of=AS_OF
            )

    def test_are_not_added_again_to_any_account(self, blocked):
        for account in (blocked.account, AccountFactory()):
            with pytest.raises(CardBlocked):
                add(account)

    def test_are_not_unblocked_by_a_new_look(self, blocked):
        with pytest.raises(NoSuchCard):
            methods.update_card(
                account_id=blocked.account_id,
                method_id=blocked.pk,
                seen=Method(blocked.token, "cus", "Visa", "1111", 1, 2040),
                actor="provider",
                as_of=AS_OF,
            )

    def test_can_be_removed_and_stay_blocked(self, blocked):
        methods.remove_card(
            account_id=blocked.account_id, method_id=blocked.pk, actor="a", as_of=AS_OF
        )

        with pytest.raises(CardBlocked):
            add(blocked.account)
