"""What stands in the units and in compose.yaml is what the code can do. None of it is started here."""

import configparser
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from django.conf import settings
from django.core.management import get_commands

from billing.workers import doorbell
from config import cluster, web_server
from tests.config.test_settings_table import TOLD

ROOT: Path = settings.BASE_DIR
UNITS = ROOT / "docs" / "deploy" / "systemd"
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
# Those that run to their end.
ONCE = {"migrate"}
# What compose.yaml itself asks for.
OF_COMPOSE = {"POSTGRES_PASSWORD", "SITE_HOST", "SECRET_KEY"}


def commands_in(text: str) -> set[str]:
    return set(re.findall(r"manage\.py[\s,\"']+([a-z_]+)", text))


class TestCompose:
    def test_serves_every_queue(self):
        served = {
            service["command"][-1]
            for service in SERVICES.values()
            if "cluster" in service.get("command", [])
        }

        assert served == set(doorbell.queues())

    def test_says_of_everything_that_stays_whether_it_is_well(self):
        without = {name for name, service in SERVICES.items() if "healthcheck" not in service}

        assert without == ONCE

    def test_starts_again_whatever_ends(self):
        restarts = {name: service["restart"] for name, service in SERVICES.items()}

        assert {name for name, policy in restarts.items() if policy != "always"} == ONCE

    def test_lets_a_cluster_stop_by_itself(self):
        for queue in doorbell.queues():
            grace = int(SERVICES[queue]["stop_grace_period"].removesuffix("s"))
            assert grace > cluster.STOP_SECONDS + 10

    def test_lets_the_requests_in_hand_end(self):
        of_compose = int(SERVICES["site"]["stop_grace_period"].removesuffix("s"))
        of_systemd = int(unit(UNITS / "month-close-web.service")["Service"]["TimeoutStopSec"])

        assert min(of_compose, of_systemd) > web_server.graceful_timeout + 10

    def test_knows_the_commands_and_settings_that_exist(self):
        text = (ROOT / "compose.yaml").read_text()

        assert commands_in(text.replace("manage.py, ", "manage.py ")) <= set(get_commands())
        assert set(SERVICES["site"]["environment"]) <= set(TOLD)
        assert set(re.findall(r"\$\{(\w+)", text)) == OF_COMPOSE

    def test_begins_after_the_migration(self):
        for name in ("site", "sweeper", *doorbell.queues()):
            assert "migrate" in SERVICES[name]["depends_on"]
        assert "migrate" not in SERVICES["migrate"]["depends_on"]


def unit(path: Path) -> configparser.ConfigParser:
    read = configparser.ConfigParser(interpolation=None, strict=False)
    read.optionxform = str  # type: ignore[assignment,method-assign]
    read.read_string(path.read_text())
    return read


class TestUnits:
    @pytest.mark.parametrize("path", sorted(UNITS.glob("*.service")), ids=lambda path: path.name)
    def test_run_commands_that_exist_and_little_else(self, path):
        service = unit(path)["Service"]

        assert commands_in(service["ExecStart"]) <= set(get_commands())
        assert service["User"] == "month-close"
        assert service["NoNewPrivileges"] == "yes"
        assert service["ProtectSystem"] == "strict"

    def test_of_a_cluster_let_it_crash_and_let_it_stop(self):
        service = unit(UNITS / "month-close-cluster@.service")["Service"]

        assert (service["Restart"], service["KillMode"]) == ("always", "mixed")
        assert int(service["TimeoutStopSec"]) > cluster.STOP_SECONDS + 10

    def test_start_a_sweep_each_minute(self):
        assert unit(UNITS / "month-close-sweep.timer")["Timer"]["OnCalendar"] == "minutely"
        assert "close_sweep" in unit(UNITS / "month-close-sweep.service")["Service"]["ExecStart"]

    @pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze here")
    def test_are_what_systemd_understands(self, tmp_path):
        for path in UNITS.iterdir():
            # The project is not installed where they say.
            text = re.sub(r"/srv/month-close/\.venv/bin/\S+", "/bin/true", path.read_text())
            (tmp_path / path.name.replace("@", "@charge")).write_text(text)

        verified = subprocess.run(
            ["systemd-analyze", "verify", *sorted(map(str, tmp_path.iterdir()))],
            capture_output=True,
            text=True,
        )

        assert verified.returncode == 0, verified.stderr
        assert not verified.stderr
