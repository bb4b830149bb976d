"""A site that has served a download before its workers are forked, as ``gunicorn --preload`` does.

So they inherit a pool with a session, and threads of downloads that they do not have.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict

from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, JsonResponse
from django.test import Client
from django.urls import include, path

settings.configure(
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    SECRET_KEY="tests",
    STORAGES={"default": json.loads(os.environ["PROJECT_STORAGE"])},
)
application = get_wsgi_application()

from django.core.files.storage import default_storage  # noqa: E402 - wants the settings


def stats(request: HttpRequest) -> JsonResponse:
    return JsonResponse(
        {"loader": loader, "pid": os.getpid()} | asdict(default_storage.pool.stats())
    )


urlpatterns = [
    path("media/", include("netstorage.urls"), {"permission": lambda request, name: True}),
    path("stats", stats),
]
loader = os.getpid()
assert sum(map(len, Client().get("/media/big.bin").streaming_content)) > 0
