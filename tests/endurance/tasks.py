"""The site's task, for Celery's workers: ``python -m celery -A tests.endurance.tasks worker``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from tests.endurance import project
from tests.endurance.broker import make_app

app = make_app(Path(os.environ["PROJECT_BROKER"]))


@app.task
def work(name: str, content: str) -> dict[str, Any]:
    return project.work(name, bytes.fromhex(content))
