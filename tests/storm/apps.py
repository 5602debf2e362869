from django.apps import AppConfig


class Storm(AppConfig):
    """In the processes of a storm only: see settings.py."""

    name = "tests.storm"
    label = "storm"

    def ready(self) -> None:
        from tests.storm import faults

        faults.install()
