"""The run's JSON: for staff, signed in, and nobody else."""

from datetime import UTC, datetime, timedelta

import pytest
from django.contrib.auth.models import Group
from django.test import Client

from accounts.models import BillingEntity
from billing.admin import groups
from billing.close import pipeline, runner, runs
from billing.reports import pace
from tests.factories import AS_OF, OCTOBER, UserFactory, account_using

STARTED = datetime(2018, 11, 2, tzinfo=UTC)


def signed_in(**of_user):
    client = Client()
    client.force_login(UserFactory(**of_user))
    return client


@pytest.fixture
def run():
    account_using("12.34")
    run, _ = runs.start(
        entity=BillingEntity.objects.get(), month=OCTOBER, started_by="ann@example.com", as_of=AS_OF
    )
    return run


@pytest.mark.django_db
class TestRunView:
    def test_answers_with_steps_money_and_when_it_was_true(self, run):
        runner.work_once(pipeline.BY_KIND["INVOICE"], as_of=AS_OF)
        client = signed_in(is_superuser=True, is_staff=True)

        answer = client.get(f"/api/runs/{run.pk}/").json()

        assert answer["steps"]["INVOICE"] == {"DONE": 1}
        assert answer["answer"]["currencies"][0]["outstanding"] == "12.34"
        assert answer["share_collected"] == {"EUR": "0.0"}
        assert answer["seconds_left"] > 0
        assert answer["left_in_words"]
        assert answer["as_of_in_words"].endswith("(UTC)")

    def test_leaves_out_how_long_it_takes_before_anything_has_ended(self, run):
        client = signed_in(is_superuser=True, is_staff=True)

        answer = client.get(f"/api/runs/{run.pk}/").json()

        assert (answer["seconds_left"], answer["left_in_words"]) == (None, "")

    @pytest.mark.parametrize("group", ["Support", "Finance"])
    def test_is_for_staff_who_may_see_runs(self, run, group):
        client = signed_in(is_staff=True)
        user = UserFactory(is_staff=True)
        groups.create_groups()
        user.groups.add(Group.objects.get(name=group))
        allowed = Client()
        allowed.force_login(user)

        assert client.get(f"/api/runs/{run.pk}/").status_code == 403
        assert allowed.get(f"/api/runs/{run.pk}/").status_code == 200

    def test_is_not_for_customers_or_strangers(self, run):
        assert signed_in().get(f"/api/runs/{run.pk}/").status_code == 403
        assert Client().get(f"/api/runs/{run.pk}/").status_code == 403

    def test_takes_no_password_with_the_request(self, run):
        UserFactory(email="root@example.com", is_superuser=True, is_staff=True)
        basic = "Basic cm9vdEBleGFtcGxlLmNvbTpzZWNyZXQ="

        assert (
            Client().get(f"/api/runs/{run.pk}/", headers={"Authorization": basic}).status_code
            == 403
        )

    def test_changes_nothing(self, run):
        client = signed_in(is_superuser=True, is_staff=True)

        assert client.post(f"/api/runs/{run.pk}/").status_code == 405

    def test_says_when_there_is_no_such_run(self):
        client = signed_in(is_superuser=True, is_staff=True)

        assert client.get("/api/runs/99/").status_code == 404


class TestPace:
    @pytest.mark.parametrize(
        ("collected", "outstanding", "share"),
        [
            ("0", "0", None),
            ("5.00", "5.00", "50.0"),
            ("999.99", "0.01", "99.9"),
            ("1", "0", "100.0"),
        ],
    )
    def test_share_is_rounded_down(self, collected, outstanding, share):
        assert pace.share_collected({"collected": collected, "outstanding": outstanding}) == share

    @pytest.mark.parametrize(
        ("ended", "after_s", "next_in_s", "left"),
        [
            (5, 10, 0, 10),
            (5, 10, None, 10),
            (0, 10, 0, None),  # nothing has ended
            (10, 10, 0, None),  # all has
            (5, 0, 0, None),  # started just now
            (5, 10, 3600, None),  # the rest waits for a due date
        ],
    )
    def test_time_left_goes_by_the_rate_so_far(self, ended, after_s, next_in_s, left):
        as_of = STARTED + timedelta(seconds=after_s)

        assert left == pace.seconds_left(
            ended=ended,
            everything=10,
            started_at=STARTED,
            next_at=None if next_in_s is None else as_of + timedelta(seconds=next_in_s),
            as_of=as_of,
        )
