"""The pipeline: what follows what, and which doorbell wakes it."""

from billing.close import pipeline
from billing.models import Step
from billing.workers import doorbell


class TestThePipeline:
    def test_has_every_kind_of_step_once(self):
        assert sorted(pipeline.KINDS) == sorted(Step.Kind.values)

    def test_rings_no_doorbell_that_nobody_hears(self):
        assert set(pipeline.QUEUES) <= set(doorbell.QUEUES)

    def test_charges_and_writes_after_the_invoice_and_holds_after_the_charge(self):
        assert [step.kind for step in pipeline.followers("INVOICE")] == ["CHARGE", "EMAIL"]
        assert sorted(pipeline.all_followers("INVOICE")) == ["CHARGE", "EMAIL", "HOLD"]
        assert pipeline.all_followers("CHARGE") == ["HOLD"]
        assert pipeline.all_followers("REPORT") == []
