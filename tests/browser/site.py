"""A small site that shows files of a storage, and notes what a browser asks it for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from django.core.files.storage import default_storage
from django.core.handlers.wsgi import WSGIHandler
from django.core.servers.basehttp import ThreadedWSGIServer, WSGIRequestHandler
from django.http import HttpRequest, HttpResponse
from django.urls import include, path


def page(request: HttpRequest) -> HttpResponse:
    """A page of this site with the content that the address has."""
    return HttpResponse(f'<!doctype html><link rel="icon" href="data:,">{request.GET["html"]}')


urlpatterns = [path("media/", include("netstorage.urls")), path("", page)]


@dataclass
class Noted:
    """A request, and how it was answered."""

    path: str
    range: str
    if_range: str
    status: int = 0
    sent: int = 0

    @property
    def first(self) -> int:
        """The byte that the answer begins with."""
        return int(self.range.removeprefix("bytes=").partition("-")[0] or 0)


class Notes:
    """Django's WSGI application, with a list of requests, and a line that can break."""

    def __init__(self) -> None:
        self.application = WSGIHandler()
        self.requests: list[Noted] = []
        self.cut_after: list[int] = []
        """How many bytes of the next answers are sent before the line breaks."""

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterator[bytes]:
        noted = Noted(
            environ["PATH_INFO"].encode("latin-1").decode(),
            environ.get("HTTP_RANGE", ""),
            environ.get("HTTP_IF_RANGE", ""),
        )
        self.requests.append(noted)
        media = noted.path.startswith("/media/")
        left = self.cut_after.pop(0) if media and self.cut_after else None

        def start_noted(status: str, *args: Any) -> Any:
            noted.status = int(status[:3])
            return start(status, *args)

        answer = self.application(environ, start_noted)
        try:
            for data in answer:
                part = data[:left]
                yield part
                noted.sent += len(part)
                if left is not None:
                    left -= len(part)
                    if not left:
                        environ["tests.handler"].close_connection = True
                        break
        finally:
            answer.close()


class Handler(WSGIRequestHandler):
    def get_environ(self) -> dict[str, Any]:
        return {**super().get_environ(), "tests.handler": self}

    def log_message(self, format: str, *args: object) -> None:
        pass


class Server(ThreadedWSGIServer):
    # Closing waits for the threads, which end with the browser's connections.
    daemon_threads = False


class Site:
    """The site while it is served."""

    def __init__(self) -> None:
        self.notes = Notes()
        self._server = Server(("127.0.0.1", 0), Handler)
        self._server.set_app(self.notes)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def page(self, html: str) -> str:
        """The address of a page with this content."""
        return f"{self.url}/?html={quote(html)}"

    def media(self, name: str) -> str:
        """The address of a file."""
        return self.url + default_storage.url(name)

    def asked(self, name: str) -> list[Noted]:
        """The requests for a file so far."""
        return [each for each in self.notes.requests if each.path == f"/media/{name}"]
