"""
The one set-up of gunicorn: of the systemd unit, of the image, and of `make run`.

    gunicorn --config python:config.web_server --bind 127.0.0.1:8000

Threads, since a page may wait for a provider or the database, and its process must answer the others meanwhile.
With threads `timeout` is about a process that does not come round any more, not about a request that takes long:
nothing is killed in the middle of a call.
"""

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings.base")

from django.conf import settings

wsgi_app = "config.wsgi"
worker_class = "gthread"
# A process for each core, about: Python runs in one at a time of its threads.
workers = settings.WEB_WORKERS
# Half of them at the most wait for a provider, or to look at a password.
threads = settings.WEB_THREADS
timeout = 60
# Told to stop, it lets requests in hand end; well under the unit's TimeoutStopSec.
graceful_timeout = 30
# Longer than the pauses of a browser, or of a proxy that keeps its connections.
keepalive = 5
control_socket_disable = True
