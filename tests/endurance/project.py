"""A site of one page and one task, as workers serve it: each saves a file and reads it again.

As many sites do, it uses its storage while it is loaded. So whoever forks afterwards has a
session, and its children inherit it.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.files.base import ContentFile
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, JsonResponse
from django.urls import path

settings.configure(
    ALLOWED_HOSTS=["127.0.0.1"],
    DATA_UPLOAD_MAX_MEMORY_SIZE=None,
    ROOT_URLCONF=__name__,
    SECRET_KEY="tests",
    STORAGES={"default": json.loads(os.environ["PROJECT_STORAGE"])},
)
application = get_wsgi_application()

from django.core.files.storage import default_storage  # noqa: E402 - wants the settings


def work(name: str, content: bytes) -> dict[str, Any]:
    """Save and read; tell what came of it, and in which process."""
    name = default_storage.save(name, ContentFile(content))
    with default_storage.open(name) as file:
        found = file.read()
    return {
        "name": name,
        "digest": hashlib.sha256(found).hexdigest(),
        "pid": os.getpid(),
        "pool": asdict(default_storage.pool.stats()),
    }


def page(request: HttpRequest, name: str) -> JsonResponse:
    return JsonResponse(work(name, request.body))


urlpatterns = [path("<name>", page)]

default_storage.exists("loaded")


def tell(loader: int = os.getpid()) -> None:
    """Let the process that loaded this use its session once more at its end."""
    if os.getpid() == loader:
        default_storage.exists("ended")
        Path(os.environ["PROJECT_REPORT"]).write_text(
            json.dumps(asdict(default_storage.pool.stats()))
        )


atexit.register(tell)
