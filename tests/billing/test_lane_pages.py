"""The lanes as staff see them: how they stand, how fast they may be, and pausing them by hand."""

import pytest
from django.contrib.admin.models import LogEntry
from django.db.models.functions import Now
from django.test import Client
from django_q.models import OrmQ

from billing.models import Step
from notifications import lanes
from notifications.models import Lane
from tests.billing.close.test_claiming import charges, take
from tests.billing.test_admin import staff, text
from tests.notifications.builders import queued

pytestmark = pytest.mark.django_db(transaction=True)

LANES = "/admin/notifications/lane/"


@pytest.fixture
def support() -> Client:
    return staff("Support", email="ann@example.com")


def lane(provider: str = "sandbox", **facts: object) -> Lane:
    lanes.grant(provider, wanted=0)
    Lane.objects.filter(provider=provider).update(**facts)
    return Lane.objects.get(provider=provider)


def url(lane: Lane, act: str) -> str:
    return f"{LANES}{lane.pk}/{act}/"


class TestTheList:
    def test_none_yet_is_said(self, support):
        assert "No lane yet." in text(support.get(LANES))

    def test_says_how_fast_it_is_and_what_waits(self, support):
        lane(rate=20, cap=5, refilled_at=Now())
        charges(cards=4)
        Step.objects.update(run_at="2018-11-02T09:00Z")
        take(1)

        page = text(support.get(LANES))

        for said in (
            "Open",
            "0.0 a second",
            "20.0 a second",
            "0%",
            "1 of 5",
            "3, since 2 November",
        ):
            assert said in page, said

    def test_says_so_where_there_is_no_limit(self, support):
        lane()

        page = text(support.get(LANES))

        assert "no limit" in page

    def test_tells_two_keys_of_a_provider_apart(self, support):
        before, now = lane(), Lane.objects.create(provider="sandbox", credential="another")

        page = text(support.get(LANES))

        assert page.index(now.credential) < page.index(before.credential)

    def test_counts_mails_for_the_mail_server(self, support):
        lane("smtp")
        queued()

        assert "1, since" in text(support.get(LANES))

    @pytest.mark.parametrize(
        ("happens", "said"),
        [
            (lambda: lanes.note_answers("sandbox", unanswered=5), "sandbox does not answer since"),
            (lambda: lanes.note_answers("sandbox", throttled_for=60), "sandbox has asked us to slow down"),
        ],
    )  # fmt: skip
    def test_says_what_is_amiss(self, support, happens, said):
        lane()
        happens()

        assert said in text(support.get(LANES))


class TestLimits:
    def test_are_set_without_touching_what_has_moved_on(self, support):
        one = lane(rate=20, tokens=3)

        sent = support.post(f"{LANES}{one.pk}/change/", {"rate": "7.5", "burst": "50", "cap": ""})

        assert sent.status_code == 302
        one.refresh_from_db()
        assert (one.rate, one.burst, one.cap, one.tokens) == (7.5, 50, None, 3)
        assert LogEntry.objects.get().user.email == "ann@example.com"

    def test_must_be_more_than_nothing(self, support):
        one = lane(rate=20)

        page = text(
            support.post(f"{LANES}{one.pk}/change/", {"rate": "0", "burst": "0", "cap": "0"})
        )

        assert page.count("greater than or equal to") == 3

    def test_are_neither_added_nor_deleted(self, support):
        one = lane()

        assert support.get(f"{LANES}add/").status_code == 403
        assert support.post(f"{LANES}{one.pk}/delete/", {"post": "yes"}).status_code == 403


class TestByHand:
    def test_is_paused_with_a_reason_after_being_asked(self, support):
        one = lane()
        assert "comes to its end" in text(support.get(url(one, "pause")))

        page = text(support.post(url(one, "pause"), {"reason": "they mend it"}, follow=True))

        assert "Sandbox is paused." in page
        assert "by ann@example.com since" in page
        assert "they mend it" in page
        assert lanes.why_shut("sandbox") == "paused by ann@example.com: they mend it"
        assert LogEntry.objects.get().change_message == "paused: they mend it"

    def test_asks_for_a_reason(self, support):
        one = lane()

        assert "This field is required" in text(support.post(url(one, "pause"), {"reason": ""}))
        assert lanes.why_shut("sandbox") == ""

    @pytest.mark.parametrize(("provider", "bell"), [("sandbox", "charge"), ("smtp", "email")])
    def test_goes_on_when_resumed_and_somebody_is_woken(self, support, provider, bell):
        one = lane(provider)
        lanes.pause(one.pk, by="bob@example.com", because="they mend it")
        assert "was paused by bob@example.com: they mend it" in text(
            support.get(url(one, "resume"))
        )

        support.post(url(one, "resume"), {"reason": "mended"})

        assert lanes.why_shut(provider) == ""
        assert OrmQ.objects.filter(key=bell).exists()

    def test_twice_is_said_and_changes_nothing(self, support):
        one = lane()
        lanes.pause(one.pk, by="bob@example.com", because="they mend it")

        page = text(support.post(url(one, "pause"), {"reason": "me too"}, follow=True))

        assert "Nothing was changed." in page
        assert lanes.why_shut("sandbox") == "paused by bob@example.com: they mend it"
        assert not LogEntry.objects.exists()

    def test_is_not_for_everybody(self):
        one = lane()
        clerk = staff()

        assert clerk.post(url(one, "pause"), {"reason": "why not"}).status_code in {302, 403}
        assert lanes.why_shut("sandbox") == ""
