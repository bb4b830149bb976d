"""Downloads that nginx fetches: the recipe of docs/howto-browsers.md, word for word, between a real
nginx and a real WebDAV server.
"""

from __future__ import annotations

import base64
import http.client
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar
from urllib.parse import quote, unquote, urlsplit

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.core.files.storage import storages
from django.core.handlers.wsgi import WSGIHandler
from django.core.servers.basehttp import ThreadedWSGIServer, WSGIRequestHandler
from django.test import Client, override_settings
from django.urls import include, path

from netstorage import links
from tests.servers.apache import Apache
from tests.servers.base import free_port
from tests.servers.keys import Authority
from tests.servers.nginx import NginxProxy, _Nginx
from tests.servers.scripted_http import DROP, Forward, Reply, ScriptedHTTP

PAGE = (Path(__file__).parents[1] / "docs" / "howto-browsers.md").read_text()
(RECIPE,) = re.findall(r"^```nginx\n(location .*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
CONTENT = bytes(range(256)) * 16
LONG_AGO = 1_700_000_000
LARGE = 200 * 2**20
APACHE = [
    "AddType text/html .html",
    "AddType text/x-other .txt .pdf",
    "ServerSignature On",
]
ALIKE = ("Content-Type", "Content-Disposition", "Cache-Control", "X-Content-Type-Options")
ACCEL = {"accel_redirect": "/_nas/"}


def recipe(url: str, credentials: str, ca: str | Path) -> str:
    """The page's block with a reader's own values; each of them stands there once."""
    text = RECIPE
    for theirs, ours in {
        "https://nas.example.com/dav/": url,
        "d2ViOnNlY3JldA==": base64.b64encode(credentials.encode()).decode(),
        "/etc/ssl/certs/ca-certificates.crt": str(ca),
    }.items():
        assert text.count(theirs) == 1, theirs
        text = text.replace(theirs, ours)
    return text


class Front(_Nginx):
    """nginx in front of the site, with the page's recipe."""

    name = "nginx-front"

    def __init__(self, site: Site, recipe: str) -> None:
        super().__init__()
        self.site = site
        self.recipe = recipe

    def location(self) -> list[str]:
        return [
            f"error_log {self.folder}/warnings.log warn;",
            f"location ~ ^/(media|plain|asked)/ {{ proxy_pass http://127.0.0.1:{self.site.port};",
            "proxy_set_header Host $http_host; }",
            # What sites have for their static files must not catch what nginx fetches.
            r"location ~ \.(png|txt)$ { return 418; }",
            self.recipe,
        ]

    def ask(
        self, target: str, headers: Any = None, method: str = "GET", body: Any = None
    ) -> Answer:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=30)
        with closing(connection):
            connection.request(method, target, body, headers or {})
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())


@dataclass
class Answer:
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    def described(self) -> dict[str, list[str]]:
        """The headers that the view decides on."""
        return {name: self.headers.get_all(name, []) for name in ALIKE}


@dataclass
class Site:
    """Django behind a port, with what it answered; each answer sets a cookie, as sessions do."""

    port: int = 0
    answers: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    django: WSGIHandler = field(default_factory=WSGIHandler)

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterator[bytes]:
        said: dict[str, str] = {}

        def begin(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
            said.update(headers)
            return start(status, [*headers, ("Set-Cookie", "site=1")], *rest)

        with closing(self.django(environ, begin)) as response:
            body = b"".join(response)
        self.answers.append((said, body))
        yield body


class Handler(WSGIRequestHandler):
    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    site = Site()
    server = ThreadedWSGIServer(("127.0.0.1", 0), Handler)
    server.set_app(site)
    site.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield site
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def apache() -> Iterator[Apache]:
    if reason := Apache.unavailable() or NginxProxy.unavailable():
        pytest.skip(reason)
    with Apache(extra=APACHE) as server:
        yield server


@pytest.fixture(scope="module")
def line(apache: Apache) -> Iterator[ScriptedHTTP]:
    """What passes on to Apache and remembers what it was asked."""
    with ScriptedHTTP(Forward(apache)) as line:
        yield line


def credentials(server: Apache) -> str:
    return f"{server.username}:{server.password}"


@pytest.fixture(scope="module")
def running(site: Site, apache: Apache, line: ScriptedHTTP) -> Iterator[Front]:
    with Front(site, recipe(line.url, credentials(apache), Authority(apache.folder).ca)) as front:
        yield front


@contextmanager
def configured(server: Any, **options: Any) -> Iterator[None]:
    """A project: a storage at /media/ for nginx, at /asked/ without signatures, and at /plain/."""
    urls = ModuleType("accel_urls")
    asked = {**ACCEL, "storage": "asked", "permission": lambda request, name: True}
    urls.urlpatterns = [
        path("media/", include("netstorage.urls"), ACCEL),
        path("plain/", include("netstorage.urls"), {"storage": "plain"}),
        path("asked/", include("netstorage.urls"), asked),
    ]
    options = {**server.options, "base_url": "/media/", "querystring_auth": True, **options}
    others = {"plain": {"base_url": "/plain/"}, "asked": {"querystring_auth": False}}
    backend = f"netstorage.{'SFTP' if server.protocol == 'sftp' else 'WebDAV'}Storage"
    settings = {"default": {}, **others}
    with override_settings(
        ALLOWED_HOSTS=["*"],
        ROOT_URLCONF=urls,
        STORAGES={
            alias: {"BACKEND": backend, "OPTIONS": {**options, **more}}
            for alias, more in settings.items()
        },
    ):
        yield
        storages["default"].pool.drain()


@pytest.fixture
def front(running: Front, site: Site, apache: Apache, line: ScriptedHTTP) -> Iterator[Front]:
    """nginx before the site, and the line to Apache behind."""
    line.script = Forward(apache)
    line.forget()
    site.answers.clear()
    with configured(apache):
        yield running


def put(server: Apache, name: str, content: bytes = CONTENT) -> str:
    """Put a file where the server has its own; its link."""
    file = server.root / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    os.utime(file, (LONG_AGO, LONG_AGO))
    return storages["default"].url(name)


def test_page_names_the_location():
    """The site is told of the location that the recipe has."""
    assert '{"accel_redirect": "/_nas/"}' in PAGE
    assert "location ^~ /_nas/ {" in RECIPE


def test_bytes_go_past_django(front, site, apache):
    """The client has the file, Django sent nothing of it and no session was asked for."""
    asked = storages["default"].pool.stats().requests
    answer = front.ask(put(apache, "a.png"))
    assert (answer.status, answer.body) == (200, CONTENT)
    [(said, body)] = site.answers
    assert said["X-Accel-Redirect"] == "/_nas/a.png"
    assert body == b""
    assert storages["default"].pool.stats().requests == asked


def test_https(site, running, apache):
    """It works with a certificate that nginx can verify; no other server gets the credentials."""
    with Apache(tls=True, extra=["CustomLog requests.log %>s"]) as server, configured(server):
        link = put(server, "a.png")
        log = server.folder / "requests.log"
        # nginx compares a certificate with a name, not with an address.
        url = server.url.replace("127.0.0.1", "localhost")
        for ca, status in ((apache.folder / "ca.pem", 503), (server.folder / "ca.pem", 200)):
            with Front(site, recipe(url, credentials(server), ca)) as front:
                assert front.ask(link).status == status
        assert site.answers[-1][1] == b""
        server._end()  # now it has written its log
        assert log.read_text().split() == ["200"]


def test_conditions_and_ranges(front, apache, site):
    """Apache answers them, through nginx."""
    link = put(apache, "a.bin")
    whole = front.ask(link)
    etag, modified = whole.headers["ETag"], whole.headers["Last-Modified"]
    assert modified == formatdate(LONG_AGO, usegmt=True)
    assert whole.headers["Accept-Ranges"] == "bytes"

    def ask(**conditions: str) -> Answer:
        return front.ask(link, {name.replace("_", "-"): text for name, text in conditions.items()})

    part = ask(Range="bytes=10-19")
    assert (part.status, part.body) == (206, CONTENT[10:20])
    assert part.headers["Content-Range"] == f"bytes 10-19/{len(CONTENT)}"
    assert part.described() == whole.described()
    assert ask(Range="bytes=-5").body == CONTENT[-5:]
    assert ask(Range="bytes=10-19", If_Range=etag).status == 206
    assert ask(Range="bytes=10-19", If_Range=modified).status == 206
    assert ask(Range="bytes=10-19", If_Range='"another"').status == 200
    assert ask(Range=f"bytes={len(CONTENT)}-").status == 416
    for same in (ask(If_None_Match=etag), ask(If_Modified_Since=modified)):
        assert (same.status, same.body) == (304, b"")
    assert ask(If_None_Match='"another"').status == 200
    assert ask(If_Modified_Since=formatdate(LONG_AGO - 60, usegmt=True)).status == 200
    assert ask(If_Match='"another"').status == 412
    assert ask(If_Unmodified_Since=formatdate(LONG_AGO - 60, usegmt=True)).status == 412
    head = front.ask(link, method="HEAD")
    assert (head.status, head.body) == (200, b"")
    assert head.headers["Content-Length"] == str(len(CONTENT))
    assert head.described() == whole.described()
    assert front.ask(link, method="POST").status == 405
    assert not any(body for _, body in site.answers)


def test_several_ranges(front, apache):
    """The view sends them itself: their Content-Type is the server's, all others the view's."""
    link = put(apache, "a.png")
    etag = front.ask(link).headers["ETag"]
    answer = front.ask(link, {"Range": "bytes=0-3,100-103", "If-Range": etag})
    assert answer.status == 206
    assert answer.headers.get_content_type() == "multipart/byteranges"
    assert answer.body.count(b"Content-Type: image/png") == 2
    assert CONTENT[:4] in answer.body and CONTENT[100:104] in answer.body


def test_strangers(front, apache, line, monkeypatch):
    """Nobody asks the server for whoever has no good link."""
    link = put(apache, "a.png")
    url, _, query = link.partition("?")
    put(apache, "b.png")
    with monkeypatch.context() as patch:
        patch.setattr(links.time, "time", lambda: LONG_AGO)
        expired = storages["default"].url("a.png")
    for bad in (url, link[:-1], expired, f"/media/b.png?{query}"):
        assert front.ask(bad).status == 403
    assert line.requests == []
    assert front.ask(link).status == 200


@pytest.mark.parametrize(
    "target", ["/_nas/a.png", "/%5fnas/a.png", "//_nas/a.png", "/media/../_nas/a.png", "/_nas/"]
)
def test_location_is_internal(front, apache, line, target):
    link = put(apache, "a.png")
    query = link.partition("?")[2]
    assert front.ask(f"{target}?{query}").status == 404
    assert line.requests == []


def test_what_the_server_sees(front, apache, line):
    """What is the browser's stays between browser and site, and the server's credentials here."""
    link = put(apache, "a.png")
    private = {
        "Cookie": "sessionid=browser",
        "Authorization": "Basic YnJvd3Nlcg==",
        "Proxy-Authorization": "Basic YnJvd3Nlcg==",
        "X-Api-Key": "browser",
        "X-HTTP-Method-Override": "DELETE",
        "Referer": "https://browser.example.com/",
        "Accept-Encoding": "gzip",
    }
    answer = front.ask(link, private, body=b"of the browser's")
    assert (answer.status, answer.body) == (200, CONTENT)
    [request] = line.requests
    basic = base64.b64encode(credentials(apache).encode()).decode()
    assert request.headers == {
        "host": urlsplit(line.url).netloc,
        "connection": "close",
        "authorization": f"Basic {basic}",
    }
    assert (request.method, request.target, request.body) == ("GET", "/dav/a.png", b"")
    assert request.version == "HTTP/1.1"
    told = str(answer.headers)
    assert basic not in told and apache.password not in told


def test_headers_of_the_server(front, apache, line):
    """The view decides how a browser takes a file, whatever the server says of it."""
    link = put(apache, "a.png")
    headers = {
        "Content-Type": "text/html",
        "Content-Encoding": "gzip",
        "Content-Disposition": "inline; filename=evil.html",
        "Cache-Control": "public, max-age=9999",
        "Expires": "Thu, 01 Jan 2099 00:00:00 GMT",
        "Set-Cookie": "nas=1",
        "Strict-Transport-Security": "max-age=9999",
    }
    plain = front.ask(storages["plain"].url("a.png"))
    line.script = lambda request: Reply(200, headers, b"content")
    answer = front.ask(link)
    assert (answer.status, answer.body) == (200, b"content")
    assert answer.described() == plain.described()
    assert answer.headers.get_all("Set-Cookie") == ["site=1"]
    assert not {"Content-Encoding", "Expires", "Strict-Transport-Security"} & set(answer.headers)


@pytest.mark.parametrize(
    "name",
    [
        "a.txt", "a.pdf", "page.html", "page.html.avif", "a.svg", "a.tar.gz", "a.html.gz",
        "a.unknown", "none", "ü.pdf", 'a "b".png',
    ],
)  # fmt: skip
def test_described_as_without_nginx(front, apache, name):
    """Type, name and caching are those of the view; Apache would call some of it HTML."""
    link = put(apache, name)
    answer, plain = front.ask(link), front.ask(storages["plain"].url(name))
    assert (answer.status, plain.status) == (200, 200)
    assert answer.described() == plain.described()
    assert all(len(values) == 1 for values in answer.described().values())
    assert answer.body == plain.body == CONTENT


@pytest.mark.parametrize(
    "name",
    [
        "a b", "%41", "%2541", "a#b", "a?b", "?", "a;b", "a+b", "a'b", 'a"b', "a&b=c", "a,b", "a:b",
        "@a", "ü", "😀", "a%2Fb", "a%00b", "a\\b", "a..", "...", "<a>", "{a}|^`~$host",
        "%", "sub/ü x/a%b", "a" * 200, "ü" * 100,
    ],
)  # fmt: skip
def test_odd_names(front, apache, line, name):
    """Apache is asked for the very file, however its name is written."""
    put(apache, name, name.encode())
    query = storages["default"].url(name).partition("?")[2]
    answer = front.ask(f"/media/{quote(name)}?{query}")
    assert (answer.status, answer.body) == (200, name.encode())
    assert unquote(line.requests[0].target) == f"/dav/{name}"


@pytest.mark.parametrize(
    "name", ["../a", "sub/../../a", "%2e%2e/a", "/etc/passwd", ".", "sub/..", "..%5ca"]
)
def test_names_that_leave(front, line, name):
    """They are refused before anybody asks, and so is the root."""
    assert front.ask(f"/asked/{name}").status == 404
    assert line.requests == []


@pytest.mark.parametrize("location", ["deep/ü x", "/slashes/"])
def test_location(running, site, apache, line, location):
    """It is below the URL, for nginx as for the storage."""
    line.forget()
    file = apache.root / location.strip("/") / "a.txt"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"below")
    with configured(apache, location=location):
        assert running.ask(storages["default"].url("a.txt")).body == b"below"
    assert unquote(line.requests[0].target) == f"/dav/{location.strip('/')}/a.txt"


def test_base_url_with_a_host(running, apache):
    base_url = f"http://{running.host}:{running.port}/media/"
    with configured(apache, base_url=base_url):
        link = put(apache, "a b.txt")
        assert link.startswith(base_url)
        assert running.ask(link.removeprefix(base_url[: -len("/media/")])).body == CONTENT


def test_missing_files_and_folders(front, apache):
    """Both are 404, as without nginx; Apache would send the browser to where the folder is."""
    (apache.root / "folder").mkdir(exist_ok=True)
    for name in ("missing.png", "folder"):
        answer = front.ask(storages["default"].url(name))
        assert answer.status == front.ask(storages["plain"].url(name)).status == 404
        assert_silent(answer)


@pytest.mark.parametrize(
    ("status", "comes"),
    [
        (301, 404), (302, 404), (307, 404), (404, 404), (405, 404), (410, 404), (501, 404),
        (400, 503), (401, 503), (403, 503), (500, 503), (502, 503), (503, 503),
    ],
)  # fmt: skip
def test_refusals_of_the_server(front, line, status, comes):
    """No redirect, no question for a password and no page of the server's reaches the browser."""
    headers = {"Location": "http://nas.internal/dav/", "WWW-Authenticate": 'Basic realm="nas"'}
    line.script = lambda request: Reply(status, headers, b"by nas.internal")
    answer = front.ask(storages["default"].url("a.png"))
    assert answer.status == comes
    assert_silent(answer)


def assert_silent(answer: Answer) -> None:
    told = f"{answer.headers}".lower() + answer.body.decode()
    for word in ("location", "www-authenticate", "nas.internal", "apache", "127.0.0.1"):
        assert word not in told
    assert answer.headers.get_content_type() == "text/html"


def test_wrong_credentials(front, site, apache):
    """The browser does not ask its user for the server's password."""
    link = put(apache, "a.png")
    with Front(site, recipe(apache.url, "web:wrong", Authority(apache.folder).ca)) as wrong:
        answer = wrong.ask(link, {"Authorization": "Basic YnJvd3Nlcg=="})
        assert answer.status == 503
        assert_silent(answer)


def test_server_that_is_down(front, line, site, apache):
    """The answer is 503, as without nginx."""
    line.script = lambda request: DROP
    assert front.ask(storages["default"].url("a.png")).status == 503
    url = f"http://127.0.0.1:{free_port()}/dav/"
    with Front(site, recipe(url, credentials(apache), Authority(apache.folder).ca)) as front:
        assert front.ask(storages["default"].url("a.png")).status == 503


def test_large_file(front, site, apache):
    """It streams: nginx keeps it neither in memory nor in a temporary file."""
    with (apache.root / "large.bin").open("wb") as file:
        file.truncate(LARGE)
    link = storages["default"].url("large.bin")
    text = recipe(apache.url, credentials(apache), Authority(apache.folder).ca)
    with Front(site, text) as own:
        connection = http.client.HTTPConnection(own.host, own.port, timeout=30)
        with closing(connection):
            connection.request("GET", link)
            response = connection.getresponse()
            length = sum(map(len, iter(lambda: response.read(2**16), b"")))
        assert length == LARGE
        assert (own.folder / "warnings.log").read_text() == ""
    assert site.answers[-1][1] == b""


def test_sftp():
    """A storage that nginx cannot fetch from is a mistake, and the message tells what to do."""

    class Nowhere:
        protocol = "sftp"
        options: ClassVar = {"host": "127.0.0.1", "password": "Pa55word"}

    with configured(Nowhere):
        with pytest.raises(ImproperlyConfigured) as caught:
            Client().get(storages["default"].url("a.png"))
        assert storages["default"].pool.stats().requests == 0
    message = str(caught.value)
    assert message.startswith("accel_redirect needs a WebDAV server to fetch from, and this is S")
    assert "Leave it out" in message and "Pa55word" not in message
