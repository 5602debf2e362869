"""How people get in and out: invitations, passwords, addresses, contacts, language. All mails by the outbox."""

import re
from datetime import timedelta
from importlib import import_module

import pytest
from django.apps import apps
from django.db import IntegrityError
from django.test import Client

from accounts import clock, people
from accounts.models import Invitation, Member, TimelineEvent, User
from billing import messages
from billing.messages import Bill
from notifications import delivery
from notifications.models import Message
from tests.billing.builders import bill, pay_by_hand
from tests.billing.test_admin import staff
from tests.billing.test_views import member_of, signed_in, text
from tests.factories import AS_OF, AccountFactory, MemberFactory, UserFactory, account_using

pytestmark = pytest.mark.django_db
PASSWORD = "correct horse battery"


def link_in(message):
    return re.search(r"http://127\.0\.0\.1:8000(/\S+)", message.body_text)[1]


def mail(kind):
    return Message.objects.filter(kind=kind).latest("created_at")


def invite(account, email="New@example.com", role="BILLER", client=None):
    client = client or member_of(account)
    return client.post(
        f"/accounts/{account.pk}/settings/invite/", {"invite-email": email, "invite-role": role}
    )


def before_the_lock(monkeypatch, happens):
    """Have something happen between the look at an invitation and the lock of its account."""
    real = people._locked

    def locked(account_id):
        happens()
        return real(account_id)

    monkeypatch.setattr(people, "_locked", locked)


class TestInvitation:
    def test_of_somebody_new_makes_a_user_by_their_own_password(self):
        account = AccountFactory(language="hu")
        invite(account)
        client, link = Client(), link_in(mail("INVITATION"))

        asked = text(client.get(link))
        joined = client.post(link, {"new_password1": PASSWORD, "new_password2": PASSWORD})

        assert mail("INVITATION").recipient == "New@example.com"
        assert "meghívja" in mail("INVITATION").subject
        assert "New@example.com" in asked
        assert '<html lang="hu">' in asked
        assert joined.url == f"/accounts/{account.pk}/"
        assert client.get(joined.url).status_code == 200
        member = Member.objects.get(user__email="New@example.com")
        assert (member.role, member.user.check_password(PASSWORD)) == ("BILLER", True)
        assert Client().get(link).status_code == 410

    def test_of_somebody_known_is_accepted_by_who_it_is_for_and_nobody_else(self):
        account, known = AccountFactory(), UserFactory(email="known@example.com")
        invite(account, "KNOWN@example.com")
        link = link_in(mail("INVITATION"))

        assert Client().get(link).url == f"/sign-in/?next={link}"
        other = signed_in(UserFactory())
        assert (other.get(link).status_code, other.post(link).status_code) == (403, 403)
        assert signed_in(known).post(link).url == f"/accounts/{account.pk}/"
        assert Member.objects.get(user=known).account == account

    @pytest.mark.parametrize("password", ["short", "12345678", ""])
    def test_needs_a_password_that_is_one(self, password):
        account = AccountFactory()
        invite(account)

        response = Client().post(
            link_in(mail("INVITATION")), {"new_password1": password, "new_password2": password}
        )

        assert response.status_code == 200
        assert not User.objects.filter(email__iexact="new@example.com").exists()

    def test_ends_when_taken_back_when_sent_anew_and_after_some_days(self, monkeypatch):
        account = AccountFactory()
        client = member_of(account)
        invite(account, client=client)
        first = link_in(mail("INVITATION"))
        invite(account, "new@EXAMPLE.com", client=client)
        second = link_in(mail("INVITATION"))
        assert Client().get(first).status_code == 410
        assert Client().get(second).status_code == 200

        now = clock.now()
        monkeypatch.setattr(clock, "now", lambda: now + people.INVITATION_LASTS)
        assert Client().get(second).status_code == 410
        monkeypatch.undo()

        opened = Invitation.objects.get(revoked_at=None)
        client.post(f"/accounts/{account.pk}/settings/invitations/{opened.pk}/revoke/")
        assert Client().get(second).status_code == 410

    def test_that_was_taken_back_is_not_mailed(self):
        account = AccountFactory()
        client = member_of(account)
        invite(account, client=client)
        opened = Invitation.objects.get()
        client.post(f"/accounts/{account.pk}/settings/invitations/{opened.pk}/revoke/")

        delivery.deliver(as_of=clock.now(), message_ids=[mail("INVITATION").pk])

        assert mail("INVITATION").state == "CANCELLED"

    def test_of_who_has_become_a_member_meanwhile_changes_nothing(self):
        account, known = AccountFactory(), UserFactory(email="known@example.com")
        invite(account, "known@example.com", role="OWNER")
        MemberFactory(account=account, user=known, role="VIEWER")

        response = signed_in(known).post(link_in(mail("INVITATION")))

        assert response.url == f"/accounts/{account.pk}/"
        assert Member.objects.get(user=known).role == "VIEWER"
        assert not TimelineEvent.objects.filter(kind="member.joined").exists()

    def test_is_read_before_it_is_accepted(self):
        account, known = AccountFactory(name="Acme Tools"), UserFactory(email="known@example.com")
        invite(account, "known@example.com")

        page = text(signed_in(known).get(link_in(mail("INVITATION"))))

        assert "Acme Tools" in page
        assert "known@example.com" in page
        assert not Member.objects.filter(user=known).exists()

    def test_that_is_taken_back_while_it_is_accepted_makes_nobody_a_member(self, monkeypatch):
        account, known = AccountFactory(), UserFactory(email="known@example.com")
        invite(account, "known@example.com")
        to_known = link_in(mail("INVITATION"))
        invite(account, "new@example.com")
        to_new = link_in(mail("INVITATION"))
        form = {"new_password1": PASSWORD, "new_password2": PASSWORD}
        before_the_lock(monkeypatch, lambda: Invitation.objects.update(revoked_at=AS_OF))

        accepted = signed_in(known).post(to_known)
        Invitation.objects.update(revoked_at=None)
        signed_up = Client().post(to_new, form)

        assert (accepted.status_code, signed_up.status_code) == (410, 410)
        assert not Member.objects.filter(user=known).exists()
        assert not User.objects.filter(email="new@example.com").exists()

    def test_gives_nobody_the_user_that_was_made_meanwhile(self, monkeypatch):
        account = AccountFactory()
        invite(account, "new@example.com")
        form = {"new_password1": PASSWORD, "new_password2": PASSWORD}
        before_the_lock(monkeypatch, lambda: UserFactory(email="New@example.com"))

        refused = Client().post(link_in(mail("INVITATION")), form)

        assert refused.status_code == 410
        assert not Member.objects.filter(user__email__iexact="new@example.com").exists()

    @pytest.mark.parametrize(
        ("email", "role", "said"),
        [
            ("no address", "VIEWER", "Enter a valid email address."),
            ("new@example.com", "KING", "KING is not one of the available choices."),
        ],
    )
    def test_of_no_address_or_for_no_role_is_refused(self, email, role, said):
        page = text(invite(AccountFactory(), email, role))

        assert said in page
        assert not Invitation.objects.exists()
        assert not Message.objects.exists()

    def test_of_a_member_is_refused(self):
        account = AccountFactory()
        there = MemberFactory(account=account)

        page = text(invite(account, there.user.email.upper()))

        assert "They are a member already." in page
        assert not Message.objects.exists()

    def test_keeps_no_link_where_staff_or_the_database_show_it(self):
        account = AccountFactory()
        invite(account)
        message = mail("INVITATION")
        token = link_in(message).split("/")[-2]

        page = text(
            staff(is_superuser=True).get(f"/admin/notifications/message/{message.pk}/change/")
        )
        listed = text(
            staff(is_superuser=True).get(
                f"/admin/accounts/invitation/{Invitation.objects.get().pk}/change/"
            )
        )

        assert token not in page
        assert "For its recipient only." in page
        assert Invitation.objects.get().token_digest not in listed
        assert token not in str(Invitation.objects.values().get())


class TestInvitationByStaff:
    def test_makes_the_first_owner(self):
        account = AccountFactory()
        client = staff("Support")
        url = f"/admin/accounts/account/{account.pk}/invite/"

        page = text(client.get(f"/admin/accounts/account/{account.pk}/change/"))
        assert url in page
        assert client.get(url).status_code == 200
        sent = client.post(url, {"email": "boss@example.com", "role": "OWNER"})
        form = {"new_password1": PASSWORD, "new_password2": PASSWORD}
        Client().post(link_in(mail("INVITATION")), form)
        again = text(client.post(url, {"email": "BOSS@example.com", "role": "OWNER"}))

        assert sent.url == f"/admin/accounts/account/{account.pk}/change/"
        assert account.members.get().role == "OWNER"
        assert "They are a member already." in again

    def test_is_for_those_who_may_add_members(self):
        url = f"/admin/accounts/account/{AccountFactory().pk}/invite/"

        assert staff("Finance").get(url).status_code == 403


class TestMembers:
    def test_are_removed_by_owners_but_never_the_last_one(self):
        account = AccountFactory()
        owner = MemberFactory(account=account)
        viewer = MemberFactory(account=account, role="VIEWER")
        client = signed_in(owner.user)

        client.post(f"/accounts/{account.pk}/settings/members/{viewer.pk}/remove/")
        kept = client.post(
            f"/accounts/{account.pk}/settings/members/{owner.pk}/remove/", follow=True
        )

        assert "needs an owner" in text(kept)
        assert list(account.members.all()) == [owner]
        assert signed_in(viewer.user).get(f"/accounts/{account.pk}/").status_code == 404


OWNERS_ONLY = {
    "invite/": {"invite-email": "a@example.com", "invite-role": "OWNER"},
    "contacts/add/": {"contact-email": "a@example.com"},
    "writing/": {"writing-language": "hu", "writing-time_zone": "Europe/Budapest"},
    "contacts/1/remove/": {},
    "invitations/1/revoke/": {},
    "members/1/remove/": {},
}


@pytest.mark.parametrize("act", OWNERS_ONLY)
def test_settings_are_looked_at_by_members_and_changed_by_owners(act):
    account = AccountFactory()
    settings = f"/accounts/{account.pk}/settings/"

    for role in ("VIEWER", "BILLER"):
        client = member_of(account, role)
        page = text(client.get(settings))
        assert "Invite somebody" not in page
        assert client.post(f"{settings}{act}", OWNERS_ONLY[act]).status_code == 403
    assert member_of(account).post(f"{settings}{act}", OWNERS_ONLY[act]).status_code == 302
    assert member_of(AccountFactory()).post(f"{settings}{act}").status_code == 404


class TestLanguageAndZone:
    def test_hold_from_then_on_for_pages_and_mails(self):
        account = AccountFactory()
        client = member_of(account)

        client.post(f"/accounts/{account.pk}/settings/writing/", OWNERS_ONLY["writing/"])

        account.refresh_from_db()
        assert (account.language, account.time_zone) == ("hu", "Europe/Budapest")
        assert '<html lang="hu">' in text(client.get(f"/accounts/{account.pk}/"))
        assert TimelineEvent.objects.get(kind="account.changed").account == account

    @pytest.mark.parametrize(("language", "zone"), [("xx", "UTC"), ("en", "Mars/Olympus")])
    def test_refuse_what_there_is_not(self, language, zone):
        account = AccountFactory()
        said = {"writing-language": language, "writing-time_zone": zone}

        response = member_of(account).post(f"/accounts/{account.pk}/settings/writing/", said)

        assert response.status_code == 200
        account.refresh_from_db()
        assert (account.language, account.time_zone) == ("en", "UTC")

    def test_that_are_the_same_as_before_are_no_change_on_the_timeline(self):
        account = AccountFactory(language="hu", time_zone="Europe/Budapest")

        response = member_of(account).post(
            f"/accounts/{account.pk}/settings/writing/", OWNERS_ONLY["writing/"]
        )

        assert response.status_code == 302
        assert not TimelineEvent.objects.filter(kind="account.changed").exists()

    def test_keep_an_old_name_of_a_zone(self):
        account = AccountFactory(time_zone="EST5EDT")
        said = {"writing-language": "hu", "writing-time_zone": "EST5EDT"}

        response = member_of(account).post(f"/accounts/{account.pk}/settings/writing/", said)

        assert response.status_code == 302


class TestBillingContacts:
    def contact(self, account, email):
        return member_of(account).post(
            f"/accounts/{account.pk}/settings/contacts/add/", {"contact-email": email}
        )

    def test_get_each_mail_about_money_once_as_the_account_does(self):
        account = account_using("12.34", card=None)
        self.contact(account, "tax@example.com")
        self.contact(account, "boss@example.com")
        [invoice] = bill(account)
        for _ in range(2):
            messages.invoices_issued([Bill(invoice, account, 1234)], as_of=AS_OF)

        told = Message.objects.filter(kind="INVOICE")
        assert sorted(told.values_list("recipient", flat=True)) == [
            "books@acme.example",
            "boss@example.com",
            "tax@example.com",
        ]
        assert len(set(told.values_list("body_text", flat=True))) == 1

    def test_are_rechecked_as_the_accounts_own_is(self):
        account = account_using("12.34", card=None)
        self.contact(account, "tax@example.com")
        [invoice] = bill(account)
        messages.invoices_issued([Bill(invoice, account, 1234)], as_of=AS_OF)
        pay_by_hand(account, 1234)

        delivery.deliver(
            as_of=AS_OF,
            message_ids=list(Message.objects.filter(kind="INVOICE").values_list("pk", flat=True)),
        )

        states = set(Message.objects.filter(kind="INVOICE").values_list("state", flat=True))
        assert states == {"CANCELLED"}

    def test_get_no_persons_mail(self):
        account = AccountFactory()
        self.contact(account, "tax@example.com")
        invite(account)

        assert [each.recipient for each in Message.objects.all()] == ["New@example.com"]

    def test_are_addresses(self):
        account = AccountFactory()

        assert "Enter a valid email address." in text(self.contact(account, "no address"))
        assert not account.contacts.exists()

    def test_are_kept_once_and_taken_out(self):
        account = AccountFactory()
        self.contact(account, "tax@example.com")

        for again in ("TAX@example.com", account.email.upper()):
            assert "Mails go there already." in text(self.contact(account, again))
        contact = account.contacts.get()
        member_of(account).post(f"/accounts/{account.pk}/settings/contacts/{contact.pk}/remove/")
        assert not account.contacts.exists()

    def test_that_bounced_is_tried_again_at_its_own_address(self):
        account = account_using("12.34", card=None)
        self.contact(account, "tax@example.com")
        [invoice] = bill(account)
        messages.invoices_issued([Bill(invoice, account, 1234)], as_of=AS_OF)
        copy = Message.objects.get(recipient="tax@example.com")
        Message.objects.filter(pk=copy.pk).update(state="DEAD")

        delivery.retry(copy)

        assert (copy.state, copy.recipient) == ("QUEUED", "tax@example.com")


class TestPassword:
    def test_that_was_forgotten_is_chosen_anew_by_a_link_that_works_once(self):
        member = MemberFactory(user__email="ann@example.com")

        asked = Client().post("/password/forgotten/", {"email": "ANN@Example.com"})
        link = link_in(mail("PASSWORD_RESET"))
        client = Client()
        form = client.get(link).url
        chosen = client.post(form, {"new_password1": PASSWORD, "new_password2": PASSWORD})

        assert (asked.url, chosen.url) == ("/password/forgotten/sent/", "/sign-in/")
        member.user.refresh_from_db()
        assert member.user.check_password(PASSWORD)
        assert "This link is over" in text(Client().get(link))

    def test_of_nobody_known_is_asked_for_with_the_same_answer_and_no_mail(self):
        response = Client().post("/password/forgotten/", {"email": "nobody@example.com"})

        assert response.url == "/password/forgotten/sent/"
        assert not Message.objects.exists()

    def test_of_staff_who_are_no_members_is_not_mailed(self):
        UserFactory(email="staff@example.com", is_staff=True)

        response = Client().post("/password/forgotten/", {"email": "staff@example.com"})

        assert response.url == "/password/forgotten/sent/"
        assert not Message.objects.exists()

    def test_asked_for_twice_in_a_minute_is_mailed_once(self, monkeypatch):
        MemberFactory(user__email="ann@example.com")
        monkeypatch.setattr(clock, "now", lambda: AS_OF)

        for _ in range(2):
            Client().post("/password/forgotten/", {"email": "ann@example.com"})

        assert Message.objects.count() == 1

    def test_of_somebody_who_may_not_sign_in_any_more_is_not_mailed(self):
        member = MemberFactory(user__email="ann@example.com")
        Client().post("/password/forgotten/", {"email": "ann@example.com"})
        User.objects.filter(pk=member.user.pk).update(is_active=False)

        delivery.deliver(as_of=clock.now(), message_ids=[mail("PASSWORD_RESET").pk])

        assert mail("PASSWORD_RESET").state == "CANCELLED"

    def test_is_changed_by_who_knows_it(self):
        member = MemberFactory()
        client = signed_in(member.user)
        form = {"new_password1": PASSWORD, "new_password2": PASSWORD}

        refused = client.post("/password/", {"old_password": "no", **form})
        changed = client.post("/password/", {"old_password": "secret", **form})

        assert (refused.status_code, changed.url) == (200, "/profile/")
        member.user.refresh_from_db()
        assert member.user.check_password(PASSWORD)
        assert client.get("/profile/").status_code == 200


class TestAddress:
    def test_changes_once_the_new_one_has_said_yes_and_the_old_one_is_told(self):
        member = MemberFactory(user__email="old@example.com")
        client = signed_in(member.user)

        client.post("/profile/", {"email": "new@example.com"})
        asked = mail("EMAIL_CHANGE")
        link = link_in(asked)
        assert asked.recipient == "new@example.com"
        assert "new@example.com" in text(client.get(link))
        member.user.refresh_from_db()
        assert member.user.email == "old@example.com"
        client.post(link)

        member.user.refresh_from_db()
        assert member.user.email == "new@example.com"
        assert mail("EMAIL_CHANGED").recipient == "old@example.com"
        assert client.get("/profile/").status_code == 200
        assert Client().post(link).status_code == 410

    def test_of_somebody_else_is_not_taken_nor_told(self):
        member, other = MemberFactory(), MemberFactory(user__email="Other@example.com")

        response = signed_in(member.user).post("/profile/", {"email": "OTHER@example.com"})

        assert response.url == "/profile/"
        assert not Message.objects.exists()
        assert not people.change_email(user=member.user, email="other@EXAMPLE.com")
        other.user.refresh_from_db()
        assert other.user.email == "Other@example.com"

    def test_may_be_confirmed_where_nobody_is_signed_in_and_by_who_is_no_member_any_more(self):
        member = MemberFactory(user__email="old@example.com")
        signed_in(member.user).post("/profile/", {"email": "new@example.com"})
        member.delete()

        response = Client().post(link_in(mail("EMAIL_CHANGE")))

        assert response.url == "/"
        assert User.objects.get(pk=member.user.pk).email == "new@example.com"
        assert not Message.objects.filter(kind="EMAIL_CHANGED").exists()

    def test_that_somebody_else_has_taken_meanwhile_does_not_change(self):
        member = MemberFactory(user__email="old@example.com")
        client = signed_in(member.user)
        client.post("/profile/", {"email": "new@example.com"})
        UserFactory(email="New@example.com")

        response = client.post(link_in(mail("EMAIL_CHANGE")))

        assert response.status_code == 410
        member.user.refresh_from_db()
        assert member.user.email == "old@example.com"
        assert not Message.objects.filter(kind="EMAIL_CHANGED").exists()

    def test_by_a_link_that_is_too_old_or_made_up_does_not_change(self, monkeypatch):
        member = MemberFactory(user__email="old@example.com")
        signed_in(member.user).post("/profile/", {"email": "new@example.com"})
        link = link_in(mail("EMAIL_CHANGE"))

        assert Client().get("/profile/email/made-up/").status_code == 410
        monkeypatch.setattr("billing.views.profile.EMAIL_LINK_LASTS", timedelta(seconds=-1))
        assert Client().post(link).status_code == 410

    def test_signs_in_in_any_case_and_is_one_users(self):
        account = AccountFactory()
        MemberFactory(account=account, user__email="Ann@Example.com")

        response = Client().post("/sign-in/", {"username": "ANN@example.COM", "password": "secret"})

        assert response.url == "/"
        with pytest.raises(IntegrityError):
            UserFactory(email="ann@example.com")

    def test_staff_who_are_no_members_are_sent_to_who_manages_staff(self):
        page = text(staff().get("/profile/"))

        assert "manages staff accounts" in page
        assert staff().post("/profile/", {"email": "new@example.com"}).status_code == 200
        assert not Message.objects.exists()


def test_addresses_that_differ_in_case_are_named_before_the_index_is_made(monkeypatch):
    migration = import_module("accounts.migrations.0026_one_user_per_address")
    UserFactory(email="ann@example.com")
    migration.check_addresses(apps, None)

    rows = [{"lowered": "ann@example.com", "users": 2}]
    monkeypatch.setattr(
        "django.db.models.query.QuerySet.order_by", lambda *_, **__: rows, raising=True
    )
    with pytest.raises(ValueError, match=r"in another case: ann@example\.com"):
        migration.check_addresses(apps, None)
