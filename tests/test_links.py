"""Signed links: each opens one file, for its time, for whom it was made, and for nobody else."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import parse_qsl, unquote, urlsplit

import pytest
from django.core.exceptions import ImproperlyConfigured, SuspiciousFileOperation
from django.core.management import call_command
from django.core.management.base import BaseCommand
from django.core.signing import BadSignature, SignatureExpired
from django.db.migrations.writer import MigrationWriter
from django.http import QueryDict
from django.test import override_settings
from hypothesis import assume, example, given
from hypothesis import strategies as st

from netstorage import SFTPStorage, WebDAVStorage, links
from netstorage.staticfiles import ManifestSFTPStorage, ManifestWebDAVStorage
from netstorage.storage import NetworkStorage

ROOT = Path(__file__).parents[1]
# Hosts of the reserved domain .invalid: whoever connects, fails.
SFTP = {"host": "sftp.invalid", "base_url": "/media/", "querystring_auth": True}
WEBDAV = {"url": "https://dav.invalid/", "base_url": "/media/", "querystring_auth": True}
NOW = 1_800_000_000.25
NAMES = [
    "a b.txt",
    "a\nb\r\n.txt",
    "100%.txt",
    "%2e%2e/x",
    "%2F",
    "what?.txt",
    "a&expires=9999999999",
    "a?expires=9999999999",
    "#1.txt",
    "a;b=c,d",
    "a:b@c+d",
    "http:/example.com/x",
    "~!*()'\"<>[]{}|^`$",
    "Übermut/日本/🎉.txt",
    "a\u0301.txt",
    " \t ",
    "a\\b",
    "..a/...",
    "\x7f\x1b",
]


@pytest.fixture
def clock(monkeypatch):
    """The time as links see it."""
    clock = SimpleNamespace(now=NOW, time=lambda: clock.now)
    monkeypatch.setattr(links, "time", clock)
    return clock


def storage_with(**options) -> SFTPStorage:
    return SFTPStorage(**{**SFTP, **options})


def query_of(url: str) -> QueryDict:
    return QueryDict(urlsplit(url).query)


def name_in(url: str, base: str = "/media/") -> str:
    """The name as a view below ``base`` is given it."""
    path = unquote(urlsplit(url).path)
    assert path.startswith(base)
    return path[len(base) :]


def refused(storage: NetworkStorage, name: str, query, kind=BadSignature) -> None:
    with pytest.raises(BadSignature) as caught:
        storage.verify_url(name, query)
    assert type(caught.value) is kind


# --- what a link opens ----------------------------------------------------------------------------


@pytest.mark.parametrize("storage", [SFTPStorage(**SFTP), WebDAVStorage(**WEBDAV)])
@pytest.mark.parametrize("name", NAMES, ids=repr)
def test_a_link_opens_its_file(storage, name):
    url = storage.url(name)
    assert url.isascii()
    assert name_in(url) == name
    storage.verify_url(name, query_of(url))
    refused(storage, f"{name}x", query_of(url))
    assert storage.pool.stats().connects == 0


@pytest.mark.parametrize(
    ("detour", "name"), [("a//b", "a/b"), ("./a", "a"), ("x/../a", "a"), ("a/", "a"), ("/a", "a")]
)
def test_a_detour_is_the_file_s_link(clock, detour, name):
    """Whether the detour is in what is linked, or in what is asked for."""
    storage = storage_with(location="" if detour[0] != "/" else "/")
    assert storage.url(detour) == storage.url(name)
    storage.verify_url(detour, query_of(storage.url(name)))


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/passwd", "..\\x", "a\0b"])
def test_what_leads_out_of_the_storage_has_no_link(name):
    """Below ``base_url`` it would be the link of another storage's file."""
    storage = storage_with(base_url="/media/mine/")
    with pytest.raises(SuspiciousFileOperation):
        storage.url(name)
    with pytest.raises(SuspiciousFileOperation):
        storage.verify_url(name, query_of(storage.url("x")))


def test_names_that_are_alike_share_no_link():
    """A backslash is no slash, and a whole path below an absolute location is no relative one."""
    storage = storage_with(location="/srv")
    for name, other in [
        ("srv/secret", "/srv/secret"),
        ("private/x", "private\\x"),
        ("a", "A"),
        ("a", "a "),
        ("\u00e1", "a\u0301"),
        ("%41", "A"),
    ]:
        refused(storage, other, query_of(storage.url(name)))
        refused(storage, name, query_of(storage.url(other)))
    assert storage.url("/srv/secret") == storage.url("secret")


@given(st.text(st.characters(exclude_categories=["Cs"])), st.text(st.characters()))
@example("a", "a/../a")
@example("a/b", "a\\b")
@example("a", "a?expires=1")
def test_any_name_that_has_a_link_comes_back(name, other):
    storage = storage_with()
    try:
        url = storage.url(name)
    except SuspiciousFileOperation:
        return
    assert name_in(url) == storage._clean(name)
    storage.verify_url(name, query_of(url))
    try:
        storage.verify_url(other, query_of(url))
    except (BadSignature, SuspiciousFileOperation, UnicodeEncodeError):
        return
    assert storage._clean(other) == storage._clean(name)


@given(
    name=st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    expires=st.one_of(st.integers().map(str), st.text(max_size=14)),
    signature=st.one_of(
        st.from_regex(r"[\w-]{43}", fullmatch=True), st.binary().map(repr), st.text(max_size=50)
    ),
)
def test_what_was_not_signed_does_not_pass(name, expires, signature):
    """Neither made up, nor put together of a name, a time and another link's signature."""
    storage = storage_with()
    signed = dict(query_of(storage.url("signed")).items())
    assume(expires != signed["expires"])
    for query in (
        {"expires": expires, "signature": signature},
        {"expires": expires, "signature": signed["signature"]},
        {"expires": signed["expires"], "signature": signature},
    ):
        for asked in (name, "signed"):
            try:
                storage.verify_url(asked, query)
            except (BadSignature, SuspiciousFileOperation):
                continue
            pytest.fail(f"{asked!r} passed with {query}")


def test_every_byte_of_a_signature_counts():
    storage = storage_with()
    query = dict(query_of(storage.url("a.txt")).items())
    signature = query["signature"]
    assert len(signature) == 43
    for at, byte in enumerate(signature):
        for other in "AB" if byte not in "AB" else "CD":
            tampered = f"{signature[:at]}{other}{signature[at + 1 :]}"
            refused(storage, "a.txt", {**query, "signature": tampered})
        refused(storage, "a.txt", {**query, "signature": signature[:at] + signature[at + 1 :]})
        refused(storage, "a.txt", {**query, "signature": f"{signature[:at]}:{signature[at:]}"})
    # The last of the 43 holds two bits that mean nothing: those have to be what they were, too.
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    passed = []
    for last in alphabet:
        try:
            storage.verify_url("a.txt", {**query, "signature": signature[:-1] + last})
        except BadSignature:
            continue
        passed.append(last)
    assert passed == [signature[-1]]


@pytest.mark.parametrize("by", [1, -1, 10**6])
def test_another_expiry(by):
    storage = storage_with()
    query = dict(query_of(storage.url("a.txt")).items())
    refused(storage, "a.txt", {**query, "expires": str(int(query["expires"]) + by)})


ODD = {
    "empty": "",
    "zero": "0",
    "negative": "-1",
    "plus": "+1800003600",
    "space": " 1800003600",
    "line": "1800003600\n",
    "decimal": "1800003600.0",
    "exponent": "1e10",
    "underscore": "1_800_003_600",
    "huge": "9" * 13,
    "hugest": "9" * 5000,
    "arabic": "١٨٠٠٠٠٣٦٠٠",
    "bengali": "১২৩",
    "superscript": "¹",
    "nul": "1800003600\0",
    "surrogate": "\ud800",
    "bound": "1800003600&bound=x",
    "word": "never",
}


@pytest.mark.parametrize("expires", ODD.values(), ids=ODD)
def test_odd_expiries_are_refused_even_if_they_are_signed(clock, expires):
    """None makes an error of another kind, which a view would have to know, too."""
    storage = storage_with()
    refused(storage, "a.txt", {"expires": expires, "signature": "A" * 43})
    claim = f"/media/a.txt?expires={expires}"
    if expires.isprintable() and expires.isascii():
        signature = links._signer().signature(claim)
        query = {"expires": expires, "signature": signature}
        refused(storage, "a.txt", query, SignatureExpired if expires == "0" else BadSignature)


@pytest.mark.parametrize("signature", ["", "A", "é" * 43, "\ud800" * 43, "A" * 43 + "\n", ":" * 43])
def test_odd_signatures_are_refused(signature):
    storage = storage_with()
    query = dict(query_of(storage.url("a.txt")).items())
    refused(storage, "a.txt", {**query, "signature": signature})


@pytest.mark.parametrize(
    "change",
    [
        lambda query: "",
        lambda query: f"expires={query['expires']}",
        lambda query: f"signature={query['signature']}",
        lambda query: query.urlencode().replace("=", "[]="),
        lambda query: query.urlencode().replace("expires", "EXPIRES"),
        lambda query: f"{query.urlencode()}&expires=9999999999",
        lambda query: f"{query.urlencode()}&signature={'A' * 43}",
        lambda query: f"{query.urlencode()}&signature=",
        lambda query: f"{query.urlencode()}%00",
        lambda query: f"{query.urlencode()}=",
        lambda query: f"{query.urlencode()}%EF%BC%9D",
        lambda query: query.urlencode().replace("&", ";"),
        lambda query: "expires=%FF&signature=%ED%A0%80",
    ],
)
def test_queries_that_are_no_link_s(change):
    """Missing, doubled, arrays, and with something after them."""
    storage = storage_with()
    refused(storage, "a.txt", QueryDict(change(query_of(storage.url("a.txt")))))


def test_more_in_a_query_does_no_harm():
    """Trackers add to links; a name that stands twice counts once."""
    storage = storage_with()
    query = query_of(storage.url("a.txt"))
    storage.verify_url("a.txt", QueryDict(f"utm_source=mail&{query.urlencode()}&x=1"))
    storage.verify_url("a.txt", QueryDict(f"expires=1&{query.urlencode()}"))


# --- whose link -----------------------------------------------------------------------------------


def test_another_storage_s_link_is_refused():
    """Protocol and server do not matter: where a link leads is what it is."""
    url = storage_with().url("a.txt")
    for other in ("/archive/", "/media/archive/", "https://example.com/media/", "//x/media/"):
        refused(storage_with(base_url=other), "a.txt", query_of(url))
        refused(storage_with(), "a.txt", query_of(storage_with(base_url=other).url("a.txt")))
    WebDAVStorage(**WEBDAV).verify_url("a.txt", query_of(url))


def test_keys():
    with override_settings(SECRET_KEY="old"):
        query = query_of(storage_with().url("a.txt"))
    with override_settings(SECRET_KEY="new"):
        refused(storage_with(), "a.txt", query)
    with override_settings(SECRET_KEY="new", SECRET_KEY_FALLBACKS=["older", "old"]):
        storage_with().verify_url("a.txt", query)
        refused(storage_with(), "b.txt", query)
        fresh = query_of(storage_with().url("a.txt"))
    with override_settings(SECRET_KEY="old"):
        refused(storage_with(), "a.txt", fresh)


BOUND = ["1", "2", "", "None", "a", "a:b", "a&bound=b", "a:b:c", "ü", "1\n"]


@pytest.mark.parametrize("made_for", BOUND, ids=repr)
def test_a_bound_link_is_its_owner_s_alone(made_for):
    storage = storage_with(querystring_bind=lambda: made_for)
    query = query_of(storage.url("a.txt"))
    storage.verify_url("a.txt", query)
    refused(storage_with(), "a.txt", query)
    refused(storage, "a.txt", query_of(storage_with().url("a.txt")))
    for other in set(BOUND) - {made_for}:
        refused(storage_with(querystring_bind=lambda: other), "a.txt", query)  # noqa: B023


def test_a_part_of_the_owner_cannot_be_moved_into_the_query():
    """What is signed is one text: "a:b" must not read as "a" with a signature that begins "b:"."""
    who = "a:b"
    storage = storage_with(querystring_bind=lambda: who)
    query = dict(query_of(storage.url("a.txt")).items())
    who = "a"
    refused(storage, "a.txt", {**query, "signature": f"b:{query['signature']}"})
    odd = {**query, "expires": f"{query['expires']}&bound=a:b"}
    refused(storage_with(), "a.txt", odd)


def test_what_binds_may_return_any_object():
    storage = storage_with(querystring_bind=lambda: 7)
    query = query_of(storage.url("a.txt"))
    storage.verify_url("a.txt", query)
    storage_with(querystring_bind=lambda: "7").verify_url("a.txt", query)


def test_an_error_of_what_binds_is_not_hidden():
    def bind():
        raise LookupError("nobody")

    storage = storage_with(querystring_bind=bind)
    with pytest.raises(LookupError):
        storage.url("a.txt")
    with pytest.raises(LookupError):
        storage.verify_url("a.txt", query_of(storage_with().url("a.txt")))


# --- time -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("lifetime", [0.5, 1, 7, 60, 3600, 7 * 86400])
def test_how_long_a_link_is_good(clock, lifetime):
    """At least as long as was asked for, and an eighth or a second more at the most."""
    storage = storage_with(querystring_expire=lifetime)
    more = max(lifetime / 8, 1)
    for made in [NOW + part * more / 7 for part in range(15)]:
        clock.now = made
        query = query_of(storage.url("a.txt"))
        expires = int(query["expires"])
        assert made + lifetime < expires <= made + lifetime + more
        clock.now = expires - 0.001
        storage.verify_url("a.txt", query)
        for clock.now in (expires, expires + 0.5, expires + 10**9):
            refused(storage, "a.txt", query, SignatureExpired)


@pytest.mark.parametrize("lifetime", [1, 7, 60, 3600])
def test_a_link_stays_the_same_for_a_part_of_its_lifetime(clock, lifetime):
    """Browsers know a file again; and there are not more links than that."""
    storage = storage_with(querystring_expire=lifetime)
    step = max(lifetime // 8, 1)
    seen = []
    clock.now = int(NOW) // step * step - lifetime % step
    for tick in range(8 * 4):
        seen.append(storage.url("a.txt"))
        assert seen[-1] == seen[tick // 4 * 4]
        clock.now += step / 4
    assert len(set(seen)) == 8


def test_a_tampered_link_is_not_told_that_it_expired(clock):
    storage = storage_with()
    query = query_of(storage.url("a.txt"))
    clock.now += 10**6
    refused(storage, "b.txt", query, BadSignature)


@pytest.mark.parametrize("lifetime", [0, -1, "60", None, True, float("nan"), float("inf")])
def test_lifetimes_that_are_none(lifetime):
    with pytest.raises(ImproperlyConfigured, match="querystring_expire"):
        storage_with(querystring_expire=lifetime).url("a.txt")


@pytest.mark.parametrize(
    ("option", "value"),
    [("querystring_auth", "yes"), ("querystring_auth", 1), ("querystring_bind", "x")],
)
def test_options_of_another_type(option, value):
    with pytest.raises(ImproperlyConfigured, match=option):
        storage_with(**{option: value}).url("a.txt")


# --- the formula ----------------------------------------------------------------------------------


@pytest.mark.parametrize("bound", [None, "", "user 7", "ü"])
@pytest.mark.parametrize("name", ["a.txt", "Ü b/100%.txt"])
def test_the_formula_is_the_documented_one(clock, name, bound):
    """With plain hashlib, in both directions."""
    with override_settings(SECRET_KEY="s3cret-ü", SECRET_KEY_FALLBACKS=["old"]):
        storage = storage_with(querystring_bind=None if bound is None else lambda: bound)
        plain = SFTPStorage(**{**SFTP, "querystring_auth": False}).url(name)

        def formula(expires: int, key: str = "s3cret-ü") -> str:
            text = f"{plain}?expires={expires}"
            if bound is not None:
                text += f"&bound={bound}"
            signing = hashlib.sha256(f"netstorage.linkssigner{key}".encode()).digest()
            digest = hmac.new(signing, text.encode(), hashlib.sha256).digest()
            return base64.urlsafe_b64encode(digest).decode().rstrip("=")

        url = storage.url(name)
        ((first, expires), (second, _)) = parse_qsl(urlsplit(url).query)
        assert (first, second) == ("expires", "signature")
        assert url == f"{plain}?expires={expires}&signature={formula(int(expires))}"
        for key in ("s3cret-ü", "old"):
            foreign = int(NOW) + 17
            storage.verify_url(name, {"expires": str(foreign), "signature": formula(foreign, key)})


# --- where links are made -------------------------------------------------------------------------


@pytest.mark.parametrize("storage_class", [SFTPStorage, WebDAVStorage])
def test_a_link_asks_nobody(storage_class):
    """In a thread and in a management command as anywhere; the server does not even exist."""
    options = SFTP if storage_class is SFTPStorage else WEBDAV
    storage = storage_class(**options, querystring_expire=86400 * 365)
    made = [storage.url("a.txt")]

    class Command(BaseCommand):
        requires_system_checks = ()

        def handle(self, **options):
            made.append(storage.url("a.txt"))

    call_command(Command())
    thread = threading.Thread(target=lambda: made.append(storage.url("a.txt")))
    thread.start()
    thread.join()
    assert len(made) == 3
    for url in made:
        storage.verify_url("a.txt", query_of(url))
    stats = storage.pool.stats()
    assert (stats.requests, stats.connects) == (0, 0)


TASK = """
import django, sys, threading
from django.conf import settings
settings.configure(
    SECRET_KEY="tests",
    INSTALLED_APPS=["netstorage", *sys.argv[1:]],
    SITE_ID=1,
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    STORAGES={"default": {"BACKEND": "netstorage.SFTPStorage", "OPTIONS": {
        "host": "sftp.invalid", "base_url": "/media/", "querystring_auth": True,
    }}},
)
django.setup()
from django.core.exceptions import ImproperlyConfigured
from django.core.files.storage import default_storage, storages
from django.core.management import call_command
if len(sys.argv) > 1:
    call_command("migrate", verbosity=0)
    from django.contrib.sites.models import Site
    Site.objects.update(domain="www.example.com:8443")
print(default_storage.url("a b.txt"))
try:
    print(storages["default"].absolute_url("a b.txt"))
except ImproperlyConfigured as error:
    print(error)
assert "paramiko" not in sys.modules or threading.active_count() == 1
"""


def in_a_process(*apps: str) -> list[str]:
    """What a worker prints: a process with a project, and no request."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(TASK), *apps],
        env={**os.environ, "PYTHONPATH": str(ROOT), "DJANGO_SETTINGS_MODULE": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout.splitlines()


def test_the_host_is_that_of_the_current_site():
    """In a process that serves no request, as a task of Celery's."""
    url, absolute = in_a_process("django.contrib.sites")
    storage_with().verify_url("a b.txt", query_of(url))
    assert absolute.startswith("https://www.example.com:8443/media/a%20b.txt?expires=")
    assert name_in(absolute) == "a b.txt"
    storage_with().verify_url("a b.txt", query_of(absolute))


def test_without_a_host_the_error_says_what_to_do():
    url, error = in_a_process()
    storage_with().verify_url("a b.txt", query_of(url))
    assert "'base_url'" in error
    assert "https://" in error
    assert "django.contrib.sites" in error


@pytest.mark.parametrize(
    ("base_url", "begin"),
    [
        ("https://www.example.com/media/", "https://www.example.com/media/"),
        ("http://www.example.com:8000/media", "http://www.example.com:8000/media/"),
        ("//www.example.com/media/", "https://www.example.com/media/"),
    ],
)
def test_a_base_url_with_a_host(base_url, begin):
    """Without a scheme it is https; and the link is the very one that a page has."""
    storage = storage_with(base_url=base_url)
    url, absolute = storage.url("a b.txt"), storage.absolute_url("a b.txt")
    assert absolute.startswith(f"{begin}a%20b.txt?expires=")
    assert absolute.endswith(url)
    storage.verify_url("a b.txt", query_of(absolute))
    unsigned = storage_with(base_url=base_url, querystring_auth=False)
    assert unsigned.absolute_url("a b.txt") == f"{begin}a%20b.txt"


def test_without_a_base_url_there_is_no_link():
    storage = storage_with(base_url=None)
    for ask in (storage.url, storage.absolute_url, lambda name: storage.verify_url(name, {})):
        with pytest.raises(ValueError, match="base_url"):
            ask("a.txt")


# --- storages -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "storage",
    [
        ManifestSFTPStorage(host="sftp.invalid", querystring_auth=True),
        ManifestWebDAVStorage(url="https://dav.invalid/", querystring_auth=True),
    ],
)
def test_links_to_static_files_never_expire(storage, settings):
    """They stand in style sheets; not even a setting for all storages changes that."""
    settings.STATIC_URL = "/static/"
    settings.DEBUG = True
    assert not storage.signs_urls
    assert storage.url("a.css") == "/static/a.css"
    settings.NETSTORAGE_SFTP = {"host": "sftp.invalid", "querystring_auth": True}
    assert ManifestSFTPStorage().url("a.css") == "/static/a.css"


def bind() -> str:
    return "somebody"


def test_a_migration_writes_the_options_down():
    storage = storage_with(querystring_expire=60, querystring_bind=bind)
    code, imports = MigrationWriter.serialize(storage)
    names: dict = {}
    exec("\n".join(imports), names)
    again = eval(code, names)
    assert again.deconstruct() == storage.deconstruct()
    assert again.deconstruct()[2].keys() >= {"querystring_auth", "querystring_expire"}
    again.verify_url("a.txt", query_of(storage.url("a.txt")))


def test_the_options_may_come_from_the_setting(clock):
    with override_settings(NETSTORAGE_SFTP={**SFTP, "querystring_expire": 8}):
        storage = SFTPStorage()
        assert 0 < int(query_of(storage.url("a.txt"))["expires"]) - NOW - 8 <= 1
    with override_settings(NETSTORAGE_SFTP={**SFTP, "querystring_auth": False}):
        assert storage.url("a.txt") == "/media/a.txt"
