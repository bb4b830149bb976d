"""Who may have a file: the view says no in the same words, whatever there is, and asks nobody."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from functools import wraps
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.core.files.base import ContentFile
from django.core.files.storage import storages
from django.http import HttpResponse
from django.test import Client, override_settings
from django.urls import include, path, re_path

from netstorage import SFTPStorage, WebDAVStorage, links
from netstorage.downloads.views import download
from netstorage.sftp import frames as w
from netstorage.storage import TEMPORARY
from tests.contract.helpers import private_storage
from tests.servers import fresh_location
from tests.servers.scripted import on

FEW_SERVERS = True
UPLOAD = TEMPORARY + "0123456789abcdef" * 2
OUTSIDE = [
    "/media/../secret.txt",
    "/media/..%2fsecret.txt",
    "/media/%2e%2e/secret.txt",
    "/media/dir/../../secret.txt",
    "/media/..%5csecret.txt",
    "/media/dir%5c..%5c..%5csecret.txt",
    "/media//etc/passwd",
    "/media/%2fetc/passwd",
    "/media/%5cetc%5cpasswd",
    "/media/a.txt%00",
    "/media/%00",
]


class Site:
    """A project with one storage on a server, and the view."""

    def __init__(self, options: dict[str, Any], *patterns: Any, **settings: Any) -> None:
        backend = "netstorage.WebDAVStorage" if "url" in options else "netstorage.SFTPStorage"
        archive = {**options, "base_url": "/archive/"}
        urls = ModuleType("urls")
        urls.urlpatterns = list(patterns)  # type: ignore[attr-defined]
        self.settings = override_settings(
            STORAGES={
                "default": {"BACKEND": backend, "OPTIONS": options},
                "archive": {"BACKEND": backend, "OPTIONS": archive},
                "local": {"BACKEND": "django.core.files.storage.InMemoryStorage"},
            },
            ROOT_URLCONF=urls,
            ALLOWED_HOSTS=["testserver"],
            **settings,
        )
        self.client = Client()

    def __enter__(self) -> Site:
        self.settings.enable()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.settings.disable()

    def get(self, url: str, method: str = "get") -> tuple[int, bytes, dict[str, str]]:
        response = getattr(self.client, method)(url)
        # Django's client closes it: at once, or with the last piece.
        content = b"".join(response) if response.streaming else response.content
        return response.status_code, content, dict(response.headers)

    def status(self, url: str, method: str = "get") -> int:
        return self.get(url, method)[0]


def mounted(at: str = "media/", **arguments: Any) -> Any:
    return path(at, include("netstorage.urls"), arguments)


@pytest.fixture
def options(server) -> dict[str, Any]:
    """What STORAGES says of a server, with three files at a place of the test's own."""
    storage = private_storage(server, location=fresh_location(server))
    for name in ("a.txt", "dir/b.txt", "secret.txt"):
        storage.save(name, ContentFile(name.encode()))
    return {**storage._given, "base_url": "/media/"}


@pytest.fixture
def signed(options) -> Iterator[Site]:
    arguments = {"storage": "archive"}
    with Site(
        {**options, "querystring_auth": True}, mounted(), mounted("archive/", **arguments)
    ) as site:
        yield site


@pytest.fixture
def asking(options) -> Iterator[Callable[..., Site]]:
    """A site whose view asks; in ``names``, what it was asked for."""
    with Site(
        options, mounted(permission=lambda request, name: site.permission(request, name))
    ) as site:
        site.names = []

        def permission(request, name):
            site.names.append(name)
            return name in site.allowed

        site.permission, site.allowed = permission, ["a.txt"]
        yield site


def asked() -> tuple[int, int]:
    stats = storages["default"].pool.stats()
    return stats.requests, stats.connects


# --- signatures -----------------------------------------------------------------------------------


def test_a_link_works(signed):
    for alias in ("default", "archive"):
        for name in ("a.txt", "dir/b.txt"):
            url = storages[alias].url(name)
            assert signed.get(url)[:2] == (200, name.encode())
            assert signed.status(url, "head") == 200
            # As often as one likes, and with a detour in it.
            assert signed.status(url.replace("/a.txt", "/./x/../a.txt")) == 200


def test_without_a_good_link_nothing_is_told(signed, monkeypatch):
    """A file, none, a directory, a hidden upload: one answer, and nothing asked of the server."""
    before = asked()
    storage = storages["default"]
    query = storage.url("a.txt").partition("?")[2]
    expires, signature = query.split("&")
    answers = []
    for url in ("", "dir/", "archived/"):
        assert signed.status(f"/media/{url}?{query}") in {403, 404}
    for name in ("secret.txt", "missing.txt", "dir", "dir/", "dir/b.txt", f"dir/{UPLOAD}", "x/y/z"):
        for wrong in (
            "",
            "?expires=&signature=",
            f"?{query}",
            f"?{expires}",
            f"?{signature}",
            f"?{query}&expires=9999999999",
            f"?expires=9999999999&{signature}",
            f"?expires=%D9%A1&{signature}%ED%A0%80",
        ):
            answers.append(signed.get(f"/media/{name}{wrong}"))
            answers.append(signed.get(f"/archive/{name}{wrong}"))
    # The link of another storage with the same files, and the right link too late.
    answers.append(signed.get(f"/archive/a.txt?{query}"))
    late = SimpleNamespace(time=lambda: 10**10)
    monkeypatch.setattr(links, "time", late)
    answers.append(signed.get(f"/media/a.txt?{query}"))
    assert len(answers) == 7 * 8 * 2 + 2
    assert all(answer == answers[0] for answer in answers)
    assert answers[0][0] == 403
    assert asked() == before


@pytest.mark.parametrize("debug", [False, True])
def test_what_a_403_and_a_404_say(signed, settings, debug, caplog):
    """Nothing of the server, the path on it, or why."""
    settings.DEBUG = debug
    caplog.set_level(logging.DEBUG, "netstorage")
    options = storages["default"].options
    for url, status in [
        ("/media/a.txt", 403),
        (storages["default"].url("missing.txt"), 404),
        (storages["default"].url("dir"), 404),
        (storages["default"].url(UPLOAD), 404),
    ]:
        code, content, headers = signed.get(url)
        assert code == status
        for detail in ("location", "password", "url"):
            if value := options.get(detail):
                assert str(value) not in content.decode()
                assert str(value) not in str(headers)
        assert b"Traceback" not in content
        assert b"Errno" not in content


def test_a_missing_file_and_a_directory_are_both_not_there(signed):
    storage = storages["default"]
    answers = [
        signed.get(storage.url(name), method)
        for name in ("missing.txt", "dir", "a.txt/below", f"dir/{UPLOAD}", f"{UPLOAD}/x")
        for method in ("get", "head")
    ]
    assert {answer[0] for answer in answers} == {404}
    assert len({answer[1] for answer in answers[::2]}) == 1


def test_a_hidden_upload_is_not_there_even_if_it_is(signed, server):
    storage = storages["default"]
    storage.save(UPLOAD, ContentFile(b"half"))
    try:
        assert signed.status(storage.url(UPLOAD)) == 404
        assert signed.status(storage.url(f"dir/../{UPLOAD}")) == 404
    finally:
        storage.delete(UPLOAD)


@pytest.mark.parametrize("method", ["post", "put", "patch", "delete", "options"])
def test_only_reading(signed, method):
    url = storages["default"].url("a.txt")
    before = asked()
    assert signed.status(url, method) == 405
    assert asked() == before


def test_a_bound_link(options):
    """In another's hands it is as good as none."""
    who = ["1"]
    more = {"querystring_auth": True, "querystring_bind": lambda: who[0]}
    with Site({**options, **more}, mounted()) as site:
        url = storages["default"].url("a.txt")
        assert site.status(url) == 200
        who[0] = "2"
        assert site.get(url) == site.get("/media/missing.txt")
        assert site.status(url) == 403


def test_both_are_needed_where_both_are_there(options):
    permission = lambda request, name: name == "a.txt"  # noqa: E731
    with Site({**options, "querystring_auth": True}, mounted(permission=permission)) as site:
        storage = storages["default"]
        assert site.status(storage.url("a.txt")) == 200
        assert site.status(storage.url("secret.txt")) == 403
        assert site.status("/media/a.txt") == 403


# --- permission -----------------------------------------------------------------------------------


def test_permission(asking):
    assert asking.get("/media/a.txt")[:2] == (200, b"a.txt")
    before = asked()
    answers = [
        asking.get(f"/media/{name}") for name in ("secret.txt", "missing.txt", "dir", "dir/b.txt")
    ]
    assert all(answer == answers[0] for answer in answers)
    assert answers[0][0] == 403
    assert asked() == before
    assert asking.names == ["a.txt", "secret.txt", "missing.txt", "dir", "dir/b.txt"]


@pytest.mark.parametrize("url", OUTSIDE)
def test_a_name_that_leaves_the_location_is_not_there(asking, url):
    """Nobody is asked: neither what gives permission, nor the server."""
    asking.permission = lambda request, name: pytest.fail(f"asked for {name!r}")
    before = asked()
    assert asking.status(url) == 404
    assert asked() == before


@pytest.mark.parametrize(
    "detour",
    ["dir/../secret.txt", "./secret.txt", "%2e/secret.txt", "dir%2f..%2fsecret.txt",
     "dir//..//secret.txt", "secret.txt/", "secret.txt/.", "a.txt/../secret.txt"],
)  # fmt: skip
def test_permission_is_asked_for_the_file_that_is_meant(asking, detour):
    """Whatever way leads there, and it is what is served."""
    assert asking.status(f"/media/{detour}") == 403
    asking.allowed.append("secret.txt")
    assert asking.get(f"/media/{detour}")[:2] == (200, b"secret.txt")
    assert asking.names == ["secret.txt", "secret.txt"]


def test_a_backslash_is_not_asked_for(asking):
    """On Windows it is a slash: 'dir\\b.txt' is 'dir/b.txt', which may be forbidden."""
    asking.permission = lambda request, name: pytest.fail(f"asked for {name!r}")
    before = asked()
    assert asking.status("/media/dir%5cb.txt") == 403
    assert asking.status("/media/a%5c..%5csecret.txt") == 403
    assert asked() == before


def test_a_directory_and_an_upload_are_not_there_for_whoever_may(asking, server):
    asking.permission = lambda request, name: True
    hidden = private_storage(server, location=storages["default"].location)
    hidden.save(UPLOAD, ContentFile(b"half"))
    try:
        for url in ("dir", "dir/", ".", "./", "dir/..", "missing.txt", UPLOAD, f"dir/../{UPLOAD}"):
            for method in ("get", "head"):
                assert asking.status(f"/media/{url}", method) == 404, url
    finally:
        hidden.delete(UPLOAD)


@pytest.mark.parametrize(
    "name",
    ["x" * 300, "x/" * 2500, "a.txt" + "/x" * 900, "é" * 200, "a?b", "%ff", "%0a"],
    ids=lambda name: name[:8],
)
def test_a_name_that_no_file_has_is_not_there(asking, caplog, name):
    """Whoever likes may ask for it: that must be no error, and fill no log."""
    asking.permission = lambda request, name: True
    assert asking.status(f"/media/{name.replace('?', '%3f')}") == 404
    assert [record for record in caplog.records if record.name == "netstorage.downloads"] == []


def test_an_async_permission_is_refused(options):
    """A coroutine is true: it would let everybody in."""

    class Later:
        def __await__(self):
            yield

    site = Site(options, mounted(permission=lambda request, name: Later()))
    with site, pytest.raises(ImproperlyConfigured, match="async"):
        site.status("/media/a.txt")


def test_permission_is_given_the_request(asking):
    asking.permission = lambda request, name: request.GET.get("key") == "right"
    assert asking.status("/media/a.txt?key=right") == 200
    assert asking.status("/media/a.txt?key=wrong") == 403


# --- what cannot be -------------------------------------------------------------------------------


def test_neither_signature_nor_permission(options):
    with Site(options, mounted()) as site:
        for url in ("/media/a.txt", "/media/a.txt?expires=1&signature=x"):
            with pytest.raises(ImproperlyConfigured, match=r"'querystring_auth'.*'permission'"):
                site.status(url)


def test_a_storage_that_is_not_ours(options):
    permission = lambda request, name: True  # noqa: E731
    site = Site(options, mounted(storage="local", permission=permission))
    with site, pytest.raises(ImproperlyConfigured, match="InMemoryStorage"):
        site.status("/media/a.txt")


def test_a_storage_itself_and_a_decorated_view(options):
    """A field's storage has no alias; and what stands in front of the view is asked first."""

    @wraps(download)
    def guarded(request, *args, **kwargs):
        if request.GET.get("login") != "1":
            return HttpResponse(status=401)
        return download(request, *args, **kwargs)

    storage_class = SFTPStorage if "host" in options else WebDAVStorage
    storage = storage_class(**{**options, "querystring_auth": True})
    with Site({}, re_path(r"^media/(?P<name>.+)\Z", guarded, {"storage": storage})) as site:
        url = storage.url("a.txt")
        assert site.status(url) == 401
        assert site.get(f"{url}&login=1")[:2] == (200, b"a.txt")
        assert site.status("/media/a.txt?login=1") == 403


# --- servers that refuse, or are gone -------------------------------------------------------------


@pytest.mark.parametrize("method", ["get", "head"])
def test_a_server_that_refuses(scripted, caplog, method):
    """403, and the log says that it was the server."""
    server = scripted()
    server.put("a.txt", b"private")
    server.script = lambda peer, request: (
        on("OPEN", w.PERMISSION_DENIED, each=True)(peer, request)
        or on("STAT", w.PERMISSION_DENIED, each=True)(peer, request)
    )
    storage = server.storage(base_url="/media/", querystring_auth=True)
    with Site({}, mounted(storage=storage)) as site:
        assert site.get(storage.url("a.txt"), method)[:2] == site.get("/media/b.txt", method)[:2]
        assert site.status(storage.url("a.txt"), method) == 403
    records = [record for record in caplog.records if record.name == "netstorage.downloads"]
    assert {record.levelname for record in records} == {"WARNING"}
    assert "a.txt" in records[0].getMessage()


@pytest.mark.parametrize("debug", [False, True])
def test_a_server_that_is_down(server, caplog, monkeypatch, settings, debug):
    """503 with an error in the log, no detail for the client; and it works again afterwards."""
    settings.DEBUG = debug
    storage = private_storage(server, location=fresh_location(server), querystring_auth=True)
    storage.save("a.txt", ContentFile(b"content"))
    options = storage.options
    with Site({}, mounted(storage=storage)) as site:
        url = storage.url("a.txt")
        assert site.status(url) == 200
        server.kill()
        try:
            for method in ("get", "head", "get"):
                status, content, headers = site.get(url, method)
                assert status == 503
                assert method == "head" or content == b"The file cannot be had at the moment."
                assert headers["Content-Type"] == "text/plain"
            # Without a link it is 403 as ever.
            assert site.status("/media/a.txt") == 403
        finally:
            server.start()
        # The pool's pause after a failed connect is over.
        monkeypatch.setattr(storage.pool, "_clock", lambda: time.monotonic() + 60)
        assert site.get(url)[:2] == (200, b"content")
    records = [record for record in caplog.records if record.name == "netstorage.downloads"]
    assert [record.levelname for record in records] == ["ERROR"] * 3
    for record in records:
        assert "'a.txt'" in record.getMessage()
        assert not (options["password"] and options["password"] in record.getMessage())
        assert record.exc_info is None
