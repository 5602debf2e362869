"""The run's JSON: for staff, signed in, and nobody else."""

from datetime import timedelta

import pytest
from django.contrib.auth.models import Group
from django.test import Client
from django.utils import timezone

from accounts.models import BillingEntity
from billing.admin import groups
from billing.close import pipeline, runs
from billing.close.engine import runner
from billing.models import CloseRun
from tests.factories import AS_OF, OCTOBER, UserFactory, account_using


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
    def test_answers_with_steps_money_and_when_it_was_true(self, run, monkeypatch):
        run.steps.create(account=account_using("1.00"), kind="INVOICE", state="READY")
        monkeypatch.setattr(pipeline.BY_KIND["INVOICE"], "batch", 1)
        runner.work_once(pipeline.BY_KIND["INVOICE"], as_of=AS_OF)
        CloseRun.objects.update(started_at=timezone.now() - timedelta(seconds=30))
        client = signed_in(is_superuser=True, is_staff=True)

        answer = client.get(f"/api/runs/{run.pk}/").json()

        assert answer["steps"]["INVOICE"] == {"DONE": 1, "READY": 1}
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
