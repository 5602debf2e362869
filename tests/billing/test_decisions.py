"""What was expected, what was seen, what was done, and why: kept for support and finance."""

import pytest

from billing import decisions
from billing.models import Decision
from tests.factories import AccountFactory

pytestmark = pytest.mark.django_db


def test_a_decision_keeps_what_it_was_made_on():
    account = AccountFactory()

    decisions.record(
        decisions.decision(
            act="CHARGE",
            did=Decision.Did.SKIPPED,
            because="settled meanwhile",
            account_id=account.pk,
            expected={"due_minor": 1200},
            saw={"due_minor": 0},
            world_changed=True,
            actor="ann@example.com",
        )
    )

    kept = Decision.objects.get()
    assert (kept.expected, kept.saw) == ({"due_minor": 1200}, {"due_minor": 0})
    assert kept.world_changed
    assert kept.actor == "ann@example.com"


def test_doing_nothing_is_a_decision_too_and_long_words_are_cut():
    decisions.record(
        decisions.decision(act="HOLD", did="SKIPPED", because="x" * 400, account_id=None)
    )

    kept = Decision.objects.get()
    assert (len(kept.because), kept.expected, kept.saw, kept.world_changed) == (300, {}, {}, False)
