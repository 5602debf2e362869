"""A benchmark as anybody would run it, in a folder that it has to leave empty."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from django.conf import settings


def bench(command: str, *options: str, folder: Path) -> dict[str, Any]:
    """What `manage.py COMMAND OPTIONS` prints as its JSON document."""
    environment = {**os.environ, "TMPDIR": str(folder)}
    environment.pop("DJANGO_SETTINGS_MODULE", None)
    ran = subprocess.run(
        [sys.executable, str(settings.BASE_DIR / "manage.py"), command, *options],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ran.returncode == 0, ran.stderr
    assert list(folder.iterdir()) == []
    document: dict[str, Any] = json.loads(ran.stdout)
    return document
