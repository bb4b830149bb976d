"""No secret shows: not in logs at DEBUG, errors with all that led to them, reprs, or migrations.

Every way of logging in does its work here and fails in the ways there are, and everything that
could be seen of it is searched. Django's error page shows the variables of each frame; so those of
our frames, and of the libraries below us, are searched, too.
"""

from __future__ import annotations

import base64
import html
import logging
import os
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import quote

import asyncssh
import h11
import httpcore
import httpx
import paramiko
import pytest
import webdav4
from django.core.checks import run_checks
from django.core.exceptions import ImproperlyConfigured
from django.core.files.base import ContentFile
from django.db.migrations.writer import MigrationWriter
from django.template.defaultfilters import pprint
from django.test import override_settings
from django.views.debug import ExceptionReporter

import netstorage
from netstorage import ConnectError, SFTPStorage, WebDAVStorage
from netstorage.storage import NetworkStorage
from tests.contract.helpers import read
from tests.servers.base import free_port
from tests.servers.scripted import PASSWORD, USERNAME, Deaf, on, silent
from tests.servers.scripted_http import DROP, SILENCE, MemoryDAV, Reply, Request, ScriptedHTTP
from tests.telling import Told

PASSPHRASE = "Pa55phrase of a key"
DAV_PASSWORD = "Pa55word&with/odd?signs"
TOKEN = "t0ken-that-nobody-sees"
HEADER = "h3ader-that-nobody-sees"
PROXY = "pr0xy-Pa55word"
WRONG = "Wr0ng-Pa55word"
KEY = asyncssh.generate_private_key("ssh-ed25519")
STRANGER = asyncssh.generate_private_key("ssh-ed25519")
PEM = KEY.export_private_key("openssh").decode()
# Each login unlocks it: with the usual 128 rounds that took half the time of all this.
LOCKED = KEY.export_private_key(
    "openssh", passphrase=PASSPHRASE, rounds=1, ignore_few_rounds=True
).decode()
OTHER_PEM = STRANGER.export_private_key("openssh").decode()

SECRETS = [PASSWORD, PASSPHRASE, DAV_PASSWORD, TOKEN, HEADER, PROXY, WRONG]
KEY_LINES = [line for pem in (PEM, LOCKED, OTHER_PEM) for line in pem.splitlines()[2:-1]]
LOGGERS = ("paramiko", "httpx", "httpcore", "webdav4", "netstorage", "django")
LIBRARIES = tuple(
    os.path.dirname(module.__file__)
    for module in (netstorage, paramiko, httpx, httpcore, h11, webdav4)
)


def forms(secret: str) -> set[str]:
    """How a secret may be written."""
    pairs = [secret, *(f"{name}:{secret}" for name in (USERNAME, "me"))]
    encoded = {base64.b64encode(pair.encode()).decode() for pair in pairs}
    return {secret, quote(secret, safe=""), html.escape(secret), repr(secret)[1:-1], *encoded}


ALL_FORMS = {form for secret in [*SECRETS, *KEY_LINES] for form in forms(secret)}


class Watch:
    """Looks for secrets in all that can be seen."""

    def __init__(self, caplog: pytest.LogCaptureFixture, told: Told) -> None:
        self._caplog = caplog
        self._told = told
        self.frames = 0
        self.records = 0

    def texts(self, *texts: str) -> None:
        for text in texts:
            assert [form for form in ALL_FORMS if form in text] == []

    def error(self, error: BaseException) -> None:
        """An error, what led to it, and the variables on its way."""
        self.texts(*traceback.format_exception(error))
        seen: set[int] = set()
        rest: list[BaseException | None] = [error]
        while rest:
            each = rest.pop()
            if each is None or id(each) in seen:
                continue
            seen.add(id(each))
            self.texts(str(each), repr(each), repr(each.args), repr(vars(each)))
            rest += [each.__cause__, each.__context__]
            reporter = ExceptionReporter(None, type(each), each, each.__traceback__)
            for frame in reporter.get_traceback_frames():
                # An error whose frames were dropped has one without a file.
                if frame.get("filename", "").startswith(LIBRARIES):
                    self.frames += 1
                    self.texts(*(f"{name} = {pprint(value)}" for name, value in frame["vars"]))

    def storage(self, storage: NetworkStorage) -> None:
        """A storage, and what belongs to it."""
        pool = storage.pool
        shown = [storage, pool, pool.endpoint, pool.stats(), storage.options, storage._given]
        shown += [storage.deconstruct(), *pool._idle, *(member.session for member in pool._idle)]
        self.texts(*map(repr, shown), *map(str, shown), pprint(storage.options))
        code, imports = MigrationWriter.serialize(storage)
        self.texts(code, *imports)
        if storage.base_url:
            self.texts(storage.url("file.txt"))

    def logs(self) -> None:
        """All that was logged so far."""
        formatter = logging.Formatter("%(name)s %(threadName)s %(message)s")
        for record in self._caplog.get_records("call"):
            if record.name.startswith(LOGGERS):
                self.records += 1
                self.texts(formatter.format(record), repr(record.args))

    def telemetry(self) -> None:
        """All that OpenTelemetry was told so far."""
        for span in self._told.spans():
            self.texts(span.to_json())
        for metric in self._told.metrics():
            self.texts(metric.to_json())


@pytest.fixture
def watch(caplog: pytest.LogCaptureFixture, told: Told) -> Iterator[Watch]:
    """Watches a test with every log at DEBUG."""
    caplog.set_level(logging.DEBUG)
    for name in LOGGERS:
        caplog.set_level(logging.DEBUG, logger=name)
    watch = Watch(caplog, told)
    yield watch
    watch.logs()
    watch.telemetry()


def test_the_watch_would_see_one(watch, caplog):
    """Each place that is searched, with a secret in it."""

    class Leaky(Exception):
        def __repr__(self) -> str:
            return "leaky"

        __str__ = __repr__

    for text in ALL_FORMS:
        with pytest.raises(AssertionError):
            watch.texts(f"<{text}>")
    outer = Leaky()
    outer.__context__ = ValueError(f"wrong: {TOKEN}")
    with pytest.raises(AssertionError):
        watch.error(outer)
    try:
        paramiko.util.inflate_long(TOKEN)  # type: ignore[arg-type] # a frame that has it
    except TypeError as error:
        with pytest.raises(AssertionError):
            watch.error(error)
    else:
        pytest.fail("it wants bytes")
    logging.getLogger("httpcore.x").debug("%s", base64.b64encode(f"me:{DAV_PASSWORD}".encode()))
    with pytest.raises(AssertionError):
        watch.logs()
    caplog.clear()
    told = Told()
    telling = Watch(caplog, told)
    with told.tracer.start_as_current_span("x", attributes={"url": f"https://me:{TOKEN}@nas"}):
        pass
    with pytest.raises(AssertionError):
        telling.telemetry()
    told.opentelemetry.io.add(1, {"token": TOKEN})
    with pytest.raises(AssertionError):
        telling.telemetry()
    told.stop()


def work(storage: NetworkStorage) -> None:
    """Whatever there is to do."""
    storage.save("dir/file.txt", ContentFile(b"content"))
    assert storage.exists("dir/file.txt")
    assert read(storage, "dir/file.txt") == b"content"
    storage.listdir("dir")
    storage.delete("dir/file.txt")
    with pytest.raises(FileNotFoundError):
        storage.size("missing")


def fails(watch: Watch, storage: NetworkStorage, kind: Any = ConnectError) -> None:
    """Two failures, of which the second is the pool's word for the first; all is searched."""
    for operation in (lambda: storage.exists("f"), lambda: storage.save("f", ContentFile(b"x"))):
        with pytest.raises(kind) as caught:
            operation()
        watch.error(caught.value)
    assert watch.frames
    watch.storage(storage)
    storage.pool.close()


# --- SFTP -----------------------------------------------------------------------------------------

LOGINS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "password": lambda folder: {"password": PASSWORD},
    "callable": lambda folder: {"password": lambda: PASSWORD},
    "key-file": lambda folder: {"key_filename": folder / "locked", "passphrase": PASSPHRASE},
    "key-text": lambda folder: {"private_key": PEM},
    "key-callable": lambda folder: {"private_key": lambda: LOCKED, "passphrase": PASSPHRASE},
    "both": lambda folder: {"private_key": OTHER_PEM, "password": PASSWORD},
}
SFTP_FAILURES: dict[str, dict[str, Any]] = {
    "password": {"password": WRONG},
    "key": {"private_key": OTHER_PEM},
    "key-and-password": {"private_key": OTHER_PEM, "password": WRONG},
    "passphrase": {"private_key": LOCKED, "passphrase": WRONG},
    "no-passphrase": {"private_key": LOCKED},
    "cut-key": {"private_key": "\n".join([*PEM.splitlines()[:3], PEM.splitlines()[-1]])},
    "turned-key": {"private_key": "\n".join(reversed(PEM.splitlines()))},
    "no-key": {"private_key": PASSPHRASE, "passphrase": WRONG},
    "host-key": {"password": PASSWORD, "host_key": "SHA256:" + "A" * 43},
}


@pytest.fixture
def keyed(scripted, tmp_path) -> Any:
    """A server that knows our key and our password."""
    (tmp_path / "locked").write_text(LOCKED)
    public = KEY.export_public_key().decode()
    return scripted(authorized_client_keys=asyncssh.import_authorized_keys(public))


def sftp(server: Any, options: dict[str, Any], **more: Any) -> SFTPStorage:
    return server.storage(**{"password": None, **options, **more})


@pytest.mark.parametrize("login", LOGINS)
def test_sftp_that_works_and_breaks(watch, keyed, tmp_path, login):
    options = LOGINS[login](tmp_path)
    storage = sftp(keyed, options, base_url="/media/")
    work(storage)
    watch.storage(storage)
    # A session that was lost is replaced, one that is always lost is an error.
    keyed.loop.run(keyed.abort())
    work(storage)
    keyed.script = on("LSTAT", lambda peer, request: peer.hang_up(), each=True)
    fails(watch, sftp(keyed, options), (ConnectError, ConnectionError))
    keyed.script = on("LSTAT", silent, each=True)
    late = sftp(keyed, options, timeout=0.2)
    with pytest.raises(TimeoutError) as caught:
        late.exists("f")
    watch.error(caught.value)
    watch.logs()
    assert watch.records


@pytest.mark.parametrize("login", LOGINS)
def test_sftp_that_cannot_connect(watch, keyed, tmp_path, loop, login):
    options = LOGINS[login](tmp_path)
    fails(watch, sftp(keyed, options, port=free_port()))
    deaf = Deaf(loop)
    try:
        fails(watch, sftp(keyed, options, port=deaf.port, connect_timeout=0.2))
    finally:
        deaf.stop()


@pytest.mark.parametrize("what", SFTP_FAILURES)
def test_sftp_that_may_not_log_in(watch, keyed, what):
    fails(watch, sftp(keyed, SFTP_FAILURES[what]))


# --- WebDAV ---------------------------------------------------------------------------------------

ACCESS: dict[str, dict[str, Any]] = {
    "basic": {"username": "me", "password": DAV_PASSWORD},
    "digest": {"username": "me", "password": DAV_PASSWORD, "auth": "digest"},
    "token": {"token": TOKEN},
    "callable": {"token": lambda: TOKEN},
    "headers": {"headers": {"X-Key": HEADER, "Cookie": f"session={HEADER}"}},
    "proxy": {"token": TOKEN, "proxy": f"http://me:{PROXY}@127.0.0.1"},
}


def challenge(algorithm: str = "MD5", qop: str = "auth") -> Reply:
    value = f'Digest realm="r", nonce="n0nce", algorithm={algorithm}, qop="{qop}"'
    return Reply(401, {"WWW-Authenticate": value})


@pytest.fixture
def dav() -> Iterator[Callable[..., ScriptedHTTP]]:
    with ExitStack() as stack:
        yield lambda script: stack.enter_context(ScriptedHTTP(script))


def webdav(server: ScriptedHTTP | None, options: dict[str, Any], **more: Any) -> WebDAVStorage:
    port = server.port if server else free_port()
    url = f"http://127.0.0.1:{port}/dav/"
    if "proxy" in options and "@127.0.0.1" in options["proxy"]:
        # The server is its own proxy, too.
        options = options | {"proxy": f"{options['proxy']}:{port}"}
    return WebDAVStorage(**{"url": url, "timeout": 5, **options, **more})


@pytest.mark.parametrize("access", ACCESS)
def test_webdav_that_works_and_breaks(watch, dav, access):
    honest = MemoryDAV()
    state: dict[str, Any] = {}

    def script(request: Request) -> object:
        if access == "digest" and "authorization" not in request.headers:
            return challenge()
        if access == "proxy":
            request.target = request.target.partition(":")[2].lstrip("/").partition("/")[2]
            request.target = f"/{request.target}"
        return state.get("reply") or honest(request)

    server = dav(script)
    storage = webdav(server, ACCESS[access], base_url="/media/")
    work(storage)
    watch.storage(storage)
    storage.pool.close()
    for reply, kind in (
        (Reply(401), ConnectError),
        (Reply(403), ConnectError),
        (Reply(302, {"Location": "http://127.0.0.1:1/?q=1"}), ConnectError),
        (DROP, ConnectError),
        (b"garbage\r\n\r\n", ConnectError),
        (SILENCE, ConnectError),
    ):
        state["reply"] = reply
        fails(watch, webdav(server, ACCESS[access], timeout=0.2), kind)
    # The same in the middle of its work.
    for reply in (Reply(401), DROP, SILENCE):
        del state["reply"]
        storage = webdav(server, ACCESS[access], timeout=0.3)
        storage.exists("f")
        state["reply"] = reply
        with pytest.raises((ConnectionError, TimeoutError)) as caught:
            storage.exists("f")
        watch.error(caught.value)
        storage.pool.close()
    watch.logs()
    assert watch.records


@pytest.mark.parametrize("access", ACCESS)
def test_webdav_that_cannot_connect(watch, access):
    fails(watch, webdav(None, ACCESS[access]))


@pytest.mark.parametrize(
    "options",
    [
        {"token": f"{TOKEN}\n"},
        {"headers": {"X-Key": f"{HEADER}\r\nX-More: 1"}},
        {"headers": {f"X-Key: {HEADER}\n": "1"}},
        {"proxy": f"ftp://me:{PROXY}@proxy.invalid:21"},
        {"cert": (os.devnull, os.devnull, PASSPHRASE)},
        {"cert": ("/nowhere.pem", "/nowhere.key", PASSPHRASE)},
    ],
    ids=["token", "header", "header-name", "proxy", "cert", "missing-cert"],
)
def test_webdav_with_options_that_cannot_be_used(watch, options):
    fails(watch, webdav(None, options))


@pytest.mark.parametrize(
    "reply",
    [
        challenge(algorithm="NONE-SUCH"),
        challenge(qop="auth-int"),
        challenge(qop="what-else"),
        Reply(401, {"WWW-Authenticate": "Digest nonsense"}),
        Reply(401, {"WWW-Authenticate": 'Digest realm="r"'}),
        Reply(401, {"WWW-Authenticate": 'Basic realm="r"'}),
        Reply(401, {"WWW-Authenticate": "Digest"}),
    ],
    ids=["algorithm", "auth-int", "qop", "nonsense", "no-nonce", "basic", "bare"],
)
def test_webdav_with_a_challenge_that_is_none(watch, dav, reply):
    """An error of ours; and a server that asks for the password itself does not get it."""
    server = dav(lambda request: reply)
    fails(watch, webdav(server, ACCESS["digest"]))
    for request in server.requests:
        watch.texts(repr(request.headers))


# --- configuration --------------------------------------------------------------------------------

SFTP_OPTIONS = {
    "host": "nas.invalid",
    "host_key": "SHA256:" + "A" * 43,
    "password": PASSWORD,
    "private_key": PEM,
    "passphrase": PASSPHRASE,
}
DAV_OPTIONS = {
    "url": "http://nas.invalid/",
    "username": "me",
    "password": DAV_PASSWORD,
    "token": TOKEN,
    "headers": {"X-Key": HEADER},
    "proxy": f"http://me:{PROXY}@proxy.invalid/",
    "cert": ("me.pem", "me.key", PASSPHRASE),
}
BOTH = [(SFTPStorage, SFTP_OPTIONS), (WebDAVStorage, DAV_OPTIONS)]


@pytest.mark.parametrize(("storage_class", "options"), BOTH)
def test_what_a_storage_shows(watch, storage_class, options):
    storage = storage_class(**options, location="media")
    watch.storage(storage)
    with override_settings(**{storage_class.settings_name: options}):
        from_settings = storage_class()
        watch.storage(from_settings)
        assert repr(from_settings) == f"{storage_class.__name__}()"
    # They are still what they are.
    assert {name: storage.options[name] for name in options} == options
    assert isinstance(storage.pool.endpoint.password, str)


@pytest.mark.parametrize(
    "wrong",
    [
        {"prot": 1},
        {"pasword": WRONG},
        {"password": 5},
        {"timeout": "5"},
        {"location": 7},
        {"pool": {"max_sise": 1}},
        {"pool": {"max_size": 0}},
        {"port": 0},
        {"host_key": "no-key"},
        {"url": f"https://me:{DAV_PASSWORD}@nas.invalid/"},
        {"url": "nas.invalid"},
        {"auth": "none"},
        {"headers": {"X-Key": 1, "X": HEADER}},
        {"headers": HEADER},
        {"proxy": PROXY},
        {"cert": (PASSPHRASE, 5)},
    ],
    ids=lambda wrong: "-".join(wrong),
)
@pytest.mark.parametrize("place", ["argument", "setting"])
@pytest.mark.parametrize(("storage_class", "options"), BOTH)
def test_configurations_that_cannot_be(watch, storage_class, options, wrong, place):
    """The error, the variables on its way, and the system check that tells it."""
    mine = {**options, **wrong}
    entry = {"BACKEND": f"netstorage.{storage_class.__name__}"}
    settings: dict[str, Any] = {"STORAGES": {"default": entry}}
    if place == "argument":
        entry["OPTIONS"] = mine  # type: ignore[assignment]
    else:
        settings[storage_class.settings_name] = mine
    with override_settings(**settings):
        try:
            given = mine if place == "argument" else {}
            storage = storage_class(**given)
            storage.pool  # noqa: B018 - looks at all options
            storage.location  # noqa: B018
        except ImproperlyConfigured as error:
            if "me:" not in str(wrong):
                watch.error(error)
            else:
                watch.texts(str(error))
        messages = run_checks()
        watch.texts(*map(str, messages), *map(repr, messages))
