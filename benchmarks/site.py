"""A site that gives files away, for real application servers: below each path in another way.

``SITE`` in the environment is JSON: ``storage``, a class of netstorage; ``options``, what it takes;
``folder``, where local files lie.
"""

from __future__ import annotations

import json
import os
import threading
import time
from functools import cache
from pathlib import Path
from typing import Any

from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.http import FileResponse, HttpRequest, JsonResponse
from django.urls import include, path

import netstorage

from . import peers

SITE = json.loads(os.environ["SITE"])

peers.configure_django(
    ROOT_URLCONF=__name__,
    ALLOWED_HOSTS=["*"],
    STORAGES={
        "default": {"BACKEND": f"netstorage.{SITE['storage']}", "OPTIONS": SITE["options"]},
    },
)
storage = getattr(netstorage, SITE["storage"])(**SITE["options"])
took: list[float] = []
looking = threading.Event()


def local(request: HttpRequest, name: str) -> FileResponse:
    return FileResponse((Path(SITE["folder"]) / name).open("rb"))


def opened(request: HttpRequest, name: str) -> FileResponse:
    return FileResponse(storage.open(name))


@cache
def theirs() -> Any:
    return peers.DjangoStorages(SITE["options"]).storage


def django_storages(request: HttpRequest, name: str) -> FileResponse:
    file = theirs().open(name)
    response = FileResponse(file)
    # Django seeks the end to learn it, and until it is read this file has none.
    response["Content-Length"] = file.size
    return response


def look(request: HttpRequest) -> JsonResponse:
    """Begin to ask for a small file, again and again, as pages do."""

    def work() -> None:
        while looking.is_set():
            started = time.perf_counter()
            storage.exists("no-such-file")
            took.append(time.perf_counter() - started)
            time.sleep(0.01)

    took.clear()
    looking.set()
    threading.Thread(target=work, daemon=True).start()
    return JsonResponse({"pid": os.getpid()})


def looked(request: HttpRequest) -> JsonResponse:
    """End it, and tell how long each look took."""
    looking.clear()
    return JsonResponse({"took": took})


def permitted(request: HttpRequest, name: str) -> bool:
    return True


urlpatterns = [
    path("view/", include("netstorage.urls"), {"permission": permitted}),
    path("local/<name>", local),
    path("open/<name>", opened),
    path("django-storages/<name>", django_storages),
    path("look", look),
    path("looked", looked),
]
wsgi: Any = get_wsgi_application()
asgi: Any = get_asgi_application()
