"""An app that makes syncs over tasks expect more of workers, so that tests need not wait."""

from __future__ import annotations

from django.apps import AppConfig

from netstorage import tasks
from netstorage.console import fanout


class Impatient(AppConfig):
    name = "tests.console"

    def ready(self):
        fanout.FILES = 20
        fanout.POLL = 0.1
        fanout.DEAD = 5.0
        tasks.BEAT = 0.2
