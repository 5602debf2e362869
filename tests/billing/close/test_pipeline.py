"""The pipeline: which steps there are, what follows what, and which doorbell wakes it."""

from types import ModuleType

import pytest
from django.conf import settings

from billing import step_kinds
from billing.close import pipeline
from billing.close.pipeline import NoSuchStep
from billing.step_kinds import Through
from billing.workers import doorbell

OURS = list(settings.CLOSE_STEPS)


class TestThePipeline:
    def test_has_the_steps_of_the_setting_in_their_order(self):
        assert [step.__name__ for step in pipeline.STEPS] == OURS
        assert list(pipeline.BY_KIND) == [each.kind for each in step_kinds.installed()]
        assert list(pipeline.BY_KIND) == ["INVOICE", "CHARGE", "EMAIL", "HOLD", "REPORT"]

    def test_rings_no_doorbell_that_nobody_hears(self):
        assert set(step_kinds.queues()) <= set(doorbell.queues())

    def test_charges_and_writes_after_the_invoice_and_holds_after_the_charge(self):
        assert [each.kind for each in step_kinds.followers("INVOICE")] == ["CHARGE", "EMAIL"]
        assert sorted(step_kinds.all_followers("INVOICE")) == ["CHARGE", "EMAIL", "HOLD"]
        assert step_kinds.all_followers("CHARGE") == ["HOLD"]
        assert step_kinds.all_followers("REPORT") == []


def module(**names: object) -> ModuleType:
    """A step that follows the invoice, unless it says otherwise; a name that is "-" is not said."""
    made = ModuleType("made")
    said: dict[str, object] = {
        "kind": "EXTRA",
        "title": "Extra",
        "follows": "INVOICE",
        "queue": "extra",
        "touches_the_world": False,
        "is_per_run": False,
        "through": Through.NOBODY,
        "counts_for_time_left": True,
        "batch": 1,
        "perform": lambda chunk: [],
    }
    vars(made).update({name: value for name, value in {**said, **names}.items() if value != "-"})
    return made


class TestInstalling:
    @pytest.fixture(autouse=True)
    def _as_it_was(self):
        yield
        pipeline.install(OURS)

    @pytest.fixture
    def install(self, monkeypatch):
        """Installs ours and this module, before the report."""
        real = pipeline.import_module

        def do(extra: ModuleType, *, place: int = 4) -> None:
            monkeypatch.setattr(
                pipeline, "import_module", lambda path: extra if path == "its.own" else real(path)
            )
            pipeline.install([*OURS[:place], "its.own", *OURS[place:]])

        return do

    def test_puts_a_step_where_it_is_listed_with_its_queue(self, install):
        install(module())

        assert step_kinds.all_followers("INVOICE") == ["CHARGE", "EMAIL", "EXTRA", "HOLD"]
        assert [each.kind for each in step_kinds.of_accounts()][-1] == "EXTRA"
        assert doorbell.queues() == ("default", "charge", "email", "extra")
        assert step_kinds.title("EXTRA") == "Extra"

    @pytest.mark.parametrize(
        ("said", "because"),
        [
            ({"kind": "HOLD"}, "there is a HOLD already"),
            ({"kind": "extra"}, "its kind 'extra' is not 50 capitals"),
            ({"kind": "E" * 51}, "is not 50 capitals"),
            ({"queue": "a,b"}, "'a,b' cannot be the name of a queue"),
            ({"queue": "schedules"}, "'schedules' cannot be the name of a queue"),
            ({"follows": "DRAFT"}, "it follows DRAFT, which no step"),
            ({"follows": "EXTRA"}, "it follows EXTRA, which no step"),
            ({"follows": "HOLD", "place": 3}, "it follows HOLD, which no step"),
            ({"is_per_run": True}, "one that is per run follows all others"),
            ({"is_per_run": True, "follows": None}, "exactly one must be per run"),
            ({"through": Through.CARD}, "what goes through a provider touches the world"),
            ({"title": "-"}, "it does not say title"),
            ({"perform": "-", "batch": "-"}, "it does not say perform, batch"),
        ],
    )
    def test_refuses_what_cannot_be_a_step_there_and_changes_nothing(self, install, said, because):
        place = said.get("place", 4)

        with pytest.raises(NoSuchStep, match=because):
            install(module(**{k: v for k, v in said.items() if k != "place"}), place=place)

        assert list(pipeline.BY_KIND) == ["INVOICE", "CHARGE", "EMAIL", "HOLD", "REPORT"]
        assert step_kinds.find("EXTRA") is None

    def test_refuses_a_close_that_would_never_end(self):
        with pytest.raises(NoSuchStep, match="exactly one must be per run"):
            pipeline.install(OURS[:-1])
