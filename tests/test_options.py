"""Options: where they come from, which are refused, and where no secret shows."""

from __future__ import annotations

import copy
import inspect
import itertools
import json
import os
import pickle
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from django.core.checks import run_checks
from django.core.exceptions import ImproperlyConfigured
from django.core.files.base import ContentFile
from django.core.files.storage import FileSystemStorage, Storage, default_storage, storages
from django.db import models
from django.db.migrations.writer import MigrationWriter
from django.test import override_settings
from django.test.utils import isolate_apps
from django.urls import set_script_prefix
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

import netstorage
from netstorage import SFTPStorage, WebDAVStorage, exceptions
from netstorage.exceptions import NetStorageError
from netstorage.limits import PoolLimits
from netstorage.options import CommonOptions, PoolOptions
from netstorage.sftp import SFTPOptions
from netstorage.storage import NetworkStorage
from netstorage.webdav import WebDAVOptions

ROOT = Path(__file__).parents[1]

# Hosts of the reserved domain .invalid: whoever connects, fails.
SFTP = {"host": "sftp.invalid"}
WEBDAV = {"url": "https://dav.invalid/root/"}
PIN = "SHA256:" + "A" * 43

both = pytest.mark.parametrize(
    ("storage_class", "setting", "minimal"),
    [
        pytest.param(SFTPStorage, "NETSTORAGE_SFTP", SFTP, id="sftp"),
        pytest.param(WebDAVStorage, "NETSTORAGE_WEBDAV", WEBDAV, id="webdav"),
    ],
)


def server_of(storage: NetworkStorage) -> str:
    return str(storage.pool.endpoint)


# --- where options come from ---------------------------------------------------------------------


@both
def test_without_arguments_the_setting_holds_all(storage_class, setting, minimal, settings):
    setattr(settings, setting, {**minimal, "location": "media", "timeout": 7})
    storage = storage_class()
    assert storage.location == "media"
    assert storage.options["timeout"] == 7
    assert "invalid" in server_of(storage)


@both
def test_arguments_win(storage_class, setting, minimal, settings):
    setattr(settings, setting, {**minimal, "location": "theirs", "timeout": 7})
    storage = storage_class(location="mine")
    assert (storage.location, storage.options["timeout"]) == ("mine", 7)


@both
def test_an_argument_of_none_wins_too(storage_class, setting, minimal, settings):
    setattr(settings, setting, {**minimal, "username": "theirs"})
    assert storage_class(username=None).options["username"] is None


@both
def test_defaults(storage_class, setting, minimal):
    storage = storage_class(**minimal)
    assert storage.location == ""
    assert not storage.options["allow_overwrite"]
    assert not storage.options["read_only"]
    assert storage.options["timeout"] == 30
    assert storage.options["connect_timeout"] == 10
    assert storage.pool.limits == PoolLimits(4, 10, 60, 3600)


@both
def test_storages_makes_them(storage_class, setting, minimal):
    entry = {"BACKEND": f"netstorage.{storage_class.__name__}", "OPTIONS": minimal}
    with override_settings(STORAGES={"default": entry, "archive": {**entry, "OPTIONS": {}}}):
        assert isinstance(storages["default"], storage_class)
        assert "invalid" in server_of(default_storage)
        with pytest.raises(ImproperlyConfigured, match="needs the option"):
            _ = storages["archive"].pool
        with override_settings(**{setting: minimal}):
            assert storages["archive"].pool is storages["default"].pool


@both
def test_the_setting_is_followed(storage_class, setting, minimal):
    """Even by a storage that was used; as FileSystemStorage follows MEDIA_ROOT."""
    with override_settings(**{setting: {**minimal, "location": "one", "base_url": "/one/"}}):
        storage = storage_class()
        first = storage.pool
        assert (storage.location, storage.url("x")) == ("one", "/one/x")
        changed = {**minimal, "username": "other", "location": "two", "base_url": "/two/"}
        with override_settings(**{setting: changed}):
            assert (storage.location, storage.url("x")) == ("two", "/two/x")
            assert storage.pool is not first
        assert storage.location == "one"
        assert storage.pool is first
    with pytest.raises(ImproperlyConfigured):
        _ = storage.pool


@both
def test_other_settings_are_followed(storage_class, setting, minimal, settings):
    storage = storage_class(**minimal)
    for url, size in (("/one/", 1), ("https://cdn.example.com/", 2)):
        settings.MEDIA_URL = url
        settings.FILE_UPLOAD_MAX_MEMORY_SIZE = size
        assert storage.base_url == url
        assert storage.url("a b") == f"{url}a%20b"
        assert storage.max_memory_size == size
    assert storage_class(**minimal, max_memory_size=5).max_memory_size == 5
    assert storage_class(**minimal, max_memory_size=0).max_memory_size == 0
    assert storage_class(**minimal, base_url="/mine").base_url == "/mine/"


def test_modes_follow_django_s_settings(settings):
    storage = SFTPStorage(**SFTP)
    own = SFTPStorage(**SFTP, file_permissions_mode=0o640, directory_permissions_mode=0o750)
    for file, directory in ((0o600, 0o700), (None, None)):
        settings.FILE_UPLOAD_PERMISSIONS = file
        settings.FILE_UPLOAD_DIRECTORY_PERMISSIONS = directory
        assert storage.file_permissions_mode == file
        assert storage.directory_permissions_mode == directory
        assert (own.file_permissions_mode, own.directory_permissions_mode) == (0o640, 0o750)
    dav = WebDAVStorage(**WEBDAV)
    assert (dav.file_permissions_mode, dav.directory_permissions_mode) == (None, None)


def test_modes_reach_the_server(sftp_storage, sftp_server, settings):
    settings.FILE_UPLOAD_PERMISSIONS = 0o640
    settings.FILE_UPLOAD_DIRECTORY_PERMISSIONS = 0o710
    sftp_storage.save("a/b/c.txt", ContentFile(b""))
    root = sftp_server.root / sftp_storage.location
    modes = [(root / name).stat().st_mode & 0o777 for name in ("a", "a/b", "a/b/c.txt")]
    assert modes == [0o710, 0o710, 0o640]


def test_a_far_setting_is_nobody_s_business():
    """Storages that are gone are not kept alive by the signal."""
    storage = SFTPStorage(**SFTP)
    with override_settings(NETSTORAGE_WEBDAV=5):
        assert server_of(storage) == "sftp://sftp.invalid:22"


@pytest.mark.parametrize("location", ["media", "media/", "./media", "a/../media", Path("media")])
def test_location_loses_its_detours(location):
    assert SFTPStorage(**SFTP, location=location).location == "media"
    assert WebDAVStorage(**WEBDAV, location=location).location == "media"


def test_location_may_be_the_server_s_root():
    assert SFTPStorage(**SFTP, location="/").location == "/"
    assert SFTPStorage(**SFTP, location="/srv//x/").location == "/srv/x"
    assert WebDAVStorage(**WEBDAV, location="/").location == ""
    assert WebDAVStorage(**WEBDAV, location="/a/").location == "a"


# --- what is refused -----------------------------------------------------------------------------


@both
@pytest.mark.parametrize(
    ("name", "near"),
    [("locatoin", "location"), ("user_name", "username"), ("timeuot", "timeout"), ("xyz", None)],
)
def test_unknown_options_are_refused(storage_class, setting, minimal, name, near):
    hint = f"Did you mean {near!r}?" if near else "has no option"
    with pytest.raises(ImproperlyConfigured) as caught:
        storage_class(**minimal, **{name: "x"})
    assert f"{storage_class.__name__}() has no option {name!r}" in str(caught.value)
    assert hint in str(caught.value)
    with override_settings(**{setting: {**minimal, name: "x"}}):
        storage = storage_class()
        with pytest.raises(ImproperlyConfigured) as caught:
            _ = storage.pool
    assert f"{setting} has no option {name!r}" in str(caught.value)
    assert hint in str(caught.value)


@both
@pytest.mark.parametrize("empty", [{}, {"host": None, "url": None}, {"host": "", "url": ""}])
def test_what_is_missing_says_where_it_goes(storage_class, setting, minimal, empty):
    (required,) = minimal
    storage = storage_class(**{name: value for name, value in empty.items() if name == required})
    with pytest.raises(ImproperlyConfigured) as caught:
        storage.exists("x")
    message = str(caught.value)
    for word in (repr(required), "OPTIONS", "STORAGES", setting, f"{storage_class.__name__}()"):
        assert word in message


@both
@pytest.mark.parametrize("value", [None, [], "sftp://nas", 5])
def test_the_setting_must_be_a_dictionary(storage_class, setting, minimal, value):
    with (
        override_settings(**{setting: value}),
        pytest.raises(ImproperlyConfigured, match=f"{setting} must be a dictionary"),
    ):
        _ = storage_class(**minimal).pool


def numbers(name: str) -> list[tuple[str, object]]:
    refused = [0, -1, "5", True, None, float("nan"), float("inf"), [5]]
    return [(name, value) for value in refused]


COMMON = [
    *numbers("timeout"),
    *numbers("connect_timeout"),
    ("location", 5),
    ("location", b"media"),
    ("base_url", 5),
    ("base_url", b"/media/"),
    ("allow_overwrite", "false"),
    ("allow_overwrite", None),
    ("read_only", "false"),
    ("read_only", 1),
    ("max_memory_size", "5 MB"),
    ("max_memory_size", 2.5),
    ("pool", 5),
    ("pool", None),
    ("pool", {"size": 3}),
    ("pool", {"max_size": 0}),
    ("pool", {"max_size": "4"}),
    ("pool", {"max_size": 2.5}),
    ("pool", {"max_size": True}),
    *[("pool", dict([pair])) for pair in (*numbers("timeout"), *numbers("max_idle"))],
]
ONLY_SFTP = [
    ("host", 5),
    ("host", ["nas"]),
    ("port", 0),
    ("port", 65536),
    ("port", "22"),
    ("port", True),
    ("port", None),
    ("username", 5),
    ("password", 5),
    ("password", b"bytes"),
    ("key_filename", 5),
    ("private_key", 5),
    ("passphrase", 5),
    ("known_hosts", 5),
    ("host_key", "nonsense"),
    ("host_key", "SHA256:short"),
    ("host_key", "ssh-ed25519 AAAA"),
    ("host_key", [PIN, "nonsense"]),
    ("host_key", 5),
    ("host_key", [5]),
    ("legacy_algorithms", ["rot13"]),
    ("legacy_algorithms", "rot13"),
    ("legacy_algorithms", 5),
    ("legacy_algorithms", [["aes128-cbc"]]),
    ("file_permissions_mode", "0644"),
    ("file_permissions_mode", 6.44),
    ("directory_permissions_mode", "0755"),
]
ONLY_WEBDAV = [
    ("url", 5),
    ("url", b"https://dav.invalid/"),
    ("url", "dav.invalid"),
    ("url", "ftp://dav.invalid/"),
    ("url", "https://"),
    ("url", "https://:443/"),
    ("url", "https://dav.invalid:0/"),
    ("url", "https://dav.invalid:99999/"),
    ("url", "https://dav.invalid:x/"),
    ("url", "https://[::1/"),
    ("url", "https://me:secret@dav.invalid/"),
    ("url", "https://dav.invalid/?a=b"),
    ("url", "https://dav.invalid/#a"),
    ("location", ".."),
    ("location", "../sibling"),
    ("username", 5),
    ("password", 5),
    ("token", 5),
    ("auth", "ntlm"),
    ("auth", None),
    ("auth", []),
    ("verify", 5),
    ("verify", None),
    ("cert", 5),
    ("cert", [5]),
    ("headers", 5),
    ("headers", "X-Site: 1"),
    ("headers", {"X-Site": 5}),
    ("proxy", 5),
    ("proxy", "nonsense"),
]


@pytest.mark.parametrize(
    ("storage_class", "minimal", "name", "value"),
    [
        *[(SFTPStorage, SFTP, *case) for case in COMMON + ONLY_SFTP],
        *[(WebDAVStorage, WEBDAV, *case) for case in COMMON + ONLY_WEBDAV],
    ],
    ids=lambda value: value.__name__[:4] if isinstance(value, type) else None,
)
def test_every_invalid_value_is_refused_by_name(storage_class, minimal, name, value):
    """At the first use, before anything is sent; and the message says which option it is."""
    storage = storage_class(**{**minimal, name: value})
    with pytest.raises(ImproperlyConfigured) as caught:
        _ = storage.pool, storage.location
    message = str(caught.value)
    assert name in message
    if name in storage.secrets:
        assert "X-Site" not in message
        assert "nonsense" not in message
    assert "me:secret" not in message


@pytest.mark.parametrize(
    "options",
    [
        {"port": 1},
        {"host_key": PIN},
        {"host_key": [PIN, PIN + "="]},
        {"host_key": (), "known_hosts": "~/.ssh/known_hosts"},
        {"known_hosts": Path("/etc/ssh/ssh_known_hosts")},
        {"key_filename": Path("/etc/site/key")},
        {"private_key": lambda: "", "passphrase": lambda: ""},
        {"legacy_algorithms": ["aes128-cbc", "hmac-sha1"]},
        {"legacy_algorithms": "3des-cbc"},
        {"file_permissions_mode": 0},
        {"pool": {"max_size": 1, "timeout": 0.5, "max_idle": 1, "max_lifetime": 1}},
        {"timeout": 0.5, "connect_timeout": 1},
        {"host": "::1"},
    ],
)
def test_valid_values_of_sftp(options):
    storage = SFTPStorage(**{"host": "valid.invalid", **options})
    assert storage.pool.stats().connects == 0


@pytest.mark.parametrize(
    "options",
    [
        {"auth": "digest", "username": "me", "password": lambda: ""},
        {"token": "t"},
        {"verify": False},
        {"verify": Path("/etc/ssl/nas.pem")},
        {"cert": "/etc/ssl/me.pem"},
        {"cert": ("/etc/ssl/me.pem", "/etc/ssl/me.key", "secret")},
        {"cert": ["/etc/ssl/me.pem", "/etc/ssl/me.key"]},
        {"headers": {"X-Site": "1"}},
        {"headers": None},
        {"proxy": "http://me:secret@proxy.invalid:3128"},
        {"url": "http://[::1]:8080/a%20b"},
    ],
)
def test_valid_values_of_webdav(options):
    storage = WebDAVStorage(**{**WEBDAV, **options})
    assert storage.pool.stats().connects == 0


# --- the signatures ------------------------------------------------------------------------------


@both
def test_options_are_by_keyword_only(storage_class, setting, minimal):
    with pytest.raises(TypeError):
        storage_class("nas.example.com")


def test_what_type_checkers_see_is_what_is_taken():
    assert SFTPOptions.__annotations__.keys() == set(SFTPStorage.defaults)
    assert WebDAVOptions.__annotations__.keys() == set(WebDAVStorage.defaults)
    assert PoolOptions.__annotations__.keys() == set(inspect.signature(PoolLimits).parameters)
    for storage_class in (SFTPStorage, WebDAVStorage):
        assert storage_class.secrets < set(storage_class.defaults)
        assert storage_class.required in storage_class.defaults


def test_every_option_is_in_the_docstring_of_its_type():
    common = CommonOptions.__annotations__
    for options in (CommonOptions, SFTPOptions, WebDAVOptions):
        described = inspect.getdoc(options)
        for name in options.__annotations__:
            if options is CommonOptions or name not in common:
                assert f"\n    {name}: " in described


# --- secrets -------------------------------------------------------------------------------------

SECRET = "s3cr3t"


def test_repr_shows_what_was_given():
    storage = SFTPStorage(host="nas.invalid", password="x", location="media")
    assert repr(storage) == "SFTPStorage(host='nas.invalid', password=…, location='media')"


def test_deconstruct_gives_what_makes_another():
    storage = SFTPStorage(host="nas.invalid", password="x", pool={"max_size": 2})
    path, arguments, options = storage.deconstruct()
    assert path == "netstorage.sftp.SFTPStorage"
    assert arguments == ()
    assert options == {"host": "nas.invalid", "pool": {"max_size": 2}}
    assert WebDAVStorage().deconstruct() == ("netstorage.webdav.WebDAVStorage", (), {})


@pytest.mark.parametrize("protocol", ["sftp", "webdav"])
def test_a_callable_secret_is_called_when_a_session_is_opened(request, protocol):
    server = request.getfixturevalue(f"{protocol}_server")
    storage_class = {"sftp": SFTPStorage, "webdav": WebDAVStorage}[protocol]
    options = server.options
    calls = []

    def password() -> str:
        calls.append("password")
        return server.password

    storage = storage_class(**{**options, "password": password})
    _ = repr(storage), storage.deconstruct(), storage.options, storage.pool, storage.location
    assert run_checks() == []
    assert calls == []
    storage.exists("x")
    assert calls == ["password"]
    storage.exists("x")
    assert calls == ["password"]
    storage.pool.drain()
    storage.exists("x")
    assert calls == ["password"] * 2
    storage.pool.close()


def test_a_callable_secret_s_own_error_is_told(sftp_server):
    class VaultSealed(Exception):
        pass

    def password() -> str:
        raise VaultSealed

    storage = SFTPStorage(**{**sftp_server.options, "password": password})
    with pytest.raises(VaultSealed):
        storage.exists("x")
    stats = storage.pool.stats()
    assert (stats.size, stats.connecting) == (0, 0)


# --- pools ---------------------------------------------------------------------------------------


def secret() -> str:
    return SECRET


@pytest.mark.parametrize(
    ("storage_class", "one", "other"),
    [
        (SFTPStorage, {}, {}),
        (SFTPStorage, {}, {"port": 22, "username": None}),
        (SFTPStorage, {"location": "a"}, {"location": "b", "base_url": "/b/", "read_only": True}),
        (SFTPStorage, {"max_memory_size": 1}, {"allow_overwrite": True}),
        (SFTPStorage, {"file_permissions_mode": 0o600}, {"file_permissions_mode": 0o644}),
        (SFTPStorage, {"host_key": PIN}, {"host_key": [PIN]}),
        (SFTPStorage, {"known_hosts": "/a"}, {"known_hosts": Path("/a")}),
        (SFTPStorage, {"password": secret}, {"password": secret}),
        (SFTPStorage, {"pool": {"max_size": 4}}, {}),
        (WebDAVStorage, {"location": "a"}, {"location": "b"}),
        (WebDAVStorage, {"headers": {"A": "1", "B": "2"}}, {"headers": {"B": "2", "A": "1"}}),
        (WebDAVStorage, {"cert": ["a", "b"]}, {"cert": ("a", "b")}),
        (WebDAVStorage, {"verify": "/a"}, {"verify": Path("/a")}),
    ],
)
def test_who_connects_alike_shares_a_pool(storage_class, one, other):
    minimal = {SFTPStorage: SFTP, WebDAVStorage: WEBDAV}[storage_class]
    first, second = storage_class(**minimal, **one), storage_class(**minimal, **other)
    assert first.pool is second.pool


@pytest.mark.parametrize(
    ("storage_class", "other"),
    [
        (SFTPStorage, {"host": "other.invalid"}),
        (SFTPStorage, {"port": 2222}),
        (SFTPStorage, {"username": "other"}),
        (SFTPStorage, {"password": "other"}),
        (SFTPStorage, {"host_key": PIN}),
        (SFTPStorage, {"timeout": 1}),
        (SFTPStorage, {"legacy_algorithms": ["aes128-cbc"]}),
        (WebDAVStorage, {"url": "https://other.invalid/"}),
        (WebDAVStorage, {"token": "other"}),
        (WebDAVStorage, {"headers": {"A": "1"}}),
        (WebDAVStorage, {"verify": False}),
        (WebDAVStorage, {"proxy": "http://proxy.invalid"}),
    ],
)
def test_who_connects_otherwise_has_another(storage_class, other):
    minimal = {SFTPStorage: SFTP, WebDAVStorage: WEBDAV}[storage_class]
    first, second = storage_class(**minimal), storage_class(**{**minimal, **other})
    assert first.pool is not second.pool


@both
def test_one_endpoint_has_one_set_of_limits(storage_class, setting, minimal):
    minimal = {**minimal, "username": "whose pool no other test uses"}
    first = storage_class(**minimal, pool={"max_size": 2})
    assert first.pool.limits.max_size == 2
    second = storage_class(**minimal, pool={"max_size": 3})
    with pytest.raises(ImproperlyConfigured, match=r"max_size=2.*max_size=3.*'pool'"):
        _ = second.pool


# --- url(), path() -------------------------------------------------------------------------------


@examples(max_examples=300, deadline=None)
@given(
    name=st.none()
    | st.text()
    | st.sampled_from(
        [
            "a b.txt",
            "/a",
            "//example.com/a",
            "http://example.com/",
            "javascript:alert(1)",
            "../a",
            "a\\b",
            "ä#?&%;+.txt",
            "",
            "a/",
            Path("a b") / "c",
        ]
    ),
    base_url=st.sampled_from(
        ["/media/", "/media", "media/", "https://cdn.example.com/x/", "//cdn.example.com", "/a?b=c"]
    ),
)
def test_urls_are_those_of_filesystemstorage(name, base_url):
    ours = SFTPStorage(**SFTP, base_url=base_url)
    theirs = FileSystemStorage(base_url=base_url)
    results = []
    for storage in (ours, theirs):
        try:
            results.append(storage.url(name))
        except (ValueError, TypeError) as error:
            results.append(repr(error))
    assert results[0] == results[1]
    assert ours.pool.stats().connects == 0


@both
def test_without_a_base_url_the_error_says_what_to_set(storage_class, setting, minimal):
    storage = storage_class(**minimal)
    assert storage.base_url is None
    with pytest.raises(ValueError, match="not accessible via a URL") as caught:
        storage.url("x")
    assert "base_url" in str(caught.value)
    assert "MEDIA_URL" in str(caught.value)


def test_a_relative_media_url_is_below_the_script(settings):
    settings.MEDIA_URL = "media/"
    set_script_prefix("/site/")
    try:
        assert SFTPStorage(**SFTP).url("x") == "/site/media/x"
    finally:
        set_script_prefix("/")


@both
def test_there_is_no_local_path(storage_class, setting, minimal):
    with pytest.raises(NotImplementedError):
        storage_class(**minimal).path("x")


# --- read_only -----------------------------------------------------------------------------------


@both
@pytest.mark.parametrize(
    "change",
    [
        lambda storage: storage.save("x.txt", ContentFile(b"x")),
        lambda storage: storage.save(None, ContentFile(b"x", name="x.txt")),
        lambda storage: storage.delete("x.txt"),
        *[lambda storage, mode=mode: storage.open("x.txt", mode) for mode in ("wb", "ab", "xb")],
        *[lambda storage, mode=mode: storage.open("x.txt", mode) for mode in ("r+b", "w", "r+")],
    ],
)
def test_read_only_refuses_before_anything_is_sent(storage_class, setting, minimal, change):
    storage = storage_class(**minimal, read_only=True)
    with pytest.raises(PermissionError, match="read-only") as caught:
        change(storage)
    assert caught.value.filename == "x.txt"
    assert storage.pool.stats().requests == 0
    storage.open("x.txt")


# --- fields --------------------------------------------------------------------------------------


def archive() -> Storage:
    return storages["archive"]


ARCHIVE = {
    "BACKEND": "netstorage.SFTPStorage",
    "OPTIONS": {**SFTP, "password": SECRET, "location": "archive"},
}


def restored(field: models.Field) -> models.Field:
    """The field as a migration would make it."""
    code, imports = MigrationWriter.serialize(field)
    assert SECRET not in code
    names: dict = {}
    exec("\n".join(imports), names)
    return eval(code, names)


@isolate_apps("tests")
def test_a_field_s_storage_leaves_its_secrets_out_of_migrations():
    class Document(models.Model):
        file = models.FileField(
            storage=SFTPStorage(
                **SFTP,
                password=SECRET,
                host_key=[PIN],
                location=Path("docs"),
                pool={"max_size": 2},
            )
        )

        class Meta:
            app_label = "tests"

    field = Document._meta.get_field("file")
    again = restored(field)
    assert isinstance(again.storage, SFTPStorage)
    assert again.storage.deconstruct() == field.storage.deconstruct()
    with override_settings(NETSTORAGE_SFTP={"password": SECRET}):
        # With the secret in the setting, the migration's storage can connect, too.
        assert again.storage.pool is field.storage.pool


@isolate_apps("tests")
def test_a_field_s_callable_stays_a_callable():
    with override_settings(STORAGES={"archive": ARCHIVE}):

        class Document(models.Model):
            file = models.FileField(storage=archive)

            class Meta:
                app_label = "tests"

        field = Document._meta.get_field("file")
        assert field.storage is storages["archive"]
        assert "archive" in MigrationWriter.serialize(field)[0]
        assert restored(field).storage is storages["archive"]


@isolate_apps("tests")
def test_the_default_storage_is_not_written_down():
    with override_settings(STORAGES={"default": ARCHIVE}):

        class Document(models.Model):
            file = models.FileField()

            class Meta:
                app_label = "tests"

        field = Document._meta.get_field("file")
        assert "storage" not in MigrationWriter.serialize(field)[0]
        assert field.storage.location == "archive"


def test_a_field_saves_opens_and_deletes(sftp_storage):
    """FieldFile, as models use it, without a database."""
    with isolate_apps("tests"):

        class Document(models.Model):
            file = models.FileField(storage=sftp_storage, upload_to="docs")

            class Meta:
                app_label = "tests"

        document = Document()
        document.file.save("a b.txt", ContentFile(b"content"), save=False)
        assert document.file.name == "docs/a_b.txt"
        again = Document(file="docs/a_b.txt")
        assert again.file.size == 7
        with again.file.open() as file:
            assert file.read() == b"content"
        assert again.file.closed
        with again.file.open("ab") as file:
            file.write(b"!")
        with again.file.open() as file:
            assert list(file) == [b"content!"]
        again.file.delete(save=False)
        assert not sftp_storage.exists("docs/a_b.txt")


@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_storage_can_be_copied(way):
    """As FileSystemStorage can; the copy shares the pool, and follows the settings by itself."""
    with override_settings(NETSTORAGE_SFTP={"location": "a"}):
        storage = SFTPStorage(**SFTP, password=SECRET)
        pool = storage.pool
        again = way(storage)
        assert again is not storage
        assert again.pool is pool
        assert again.location == "a"
        with override_settings(NETSTORAGE_SFTP={"location": "b"}):
            assert again.location == "b"


@isolate_apps("tests")
def test_a_field_can_be_copied():
    storage = SFTPStorage(**SFTP)
    _ = storage.pool

    class Document(models.Model):
        file = models.FileField(storage=storage)

        class Meta:
            app_label = "tests"

    field = Document._meta.get_field("file")
    assert copy.deepcopy(field).storage is storage
    assert field.clone().storage is storage


MODELS = """
from django.core.files.storage import storages
from django.db import models

from netstorage import SFTPStorage, WebDAVStorage


def archive():
    return storages["archive"]


class Document(models.Model):
    inline = models.FileField(
        storage=SFTPStorage(host="sftp.invalid", password="s3cr3t", host_key="PIN", location="x")
    )
    dav = models.ImageField(
        storage=WebDAVStorage(url="https://dav.invalid/", token="s3cr3t", headers={"A": "s3cr3t"})
    )
    bare = models.FileField(storage=SFTPStorage())
    alias = models.FileField(storage=archive)
    default = models.FileField()
""".replace("PIN", PIN)

PROJECT = """
import django
from django.conf import settings
from django.core.management import call_command

entry = {
    "BACKEND": "netstorage.SFTPStorage",
    "OPTIONS": {"host": "sftp.invalid", "password": "s3cr3t", "known_hosts": "/x"},
}
settings.configure(
    INSTALLED_APPS=["netstorage", "documents"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    STORAGES={"default": entry, "archive": entry},
    NETSTORAGE_SFTP={"host": "other.invalid", "password": "s3cr3t", "known_hosts": "/x"},
    SILENCED_SYSTEM_CHECKS=["netstorage.W005"],
)
django.setup()
call_command("makemigrations", "documents")
call_command("makemigrations", "documents", check=True)
call_command("migrate")
call_command("check", fail_level="WARNING")
from netstorage.pool import all_pools
assert not any(pool.stats().requests for pool in all_pools())
"""


def test_makemigrations_for_real(tmp_path):
    """A new app: its migration has no secret, applies, and a second run finds nothing to do."""
    app = tmp_path / "documents"
    app.mkdir()
    (app / "__init__.py").touch()
    (app / "models.py").write_text(MODELS)
    (tmp_path / "run.py").write_text(PROJECT)
    done = run([str(tmp_path / "run.py")])
    assert "No changes detected" in done
    migration = (app / "migrations" / "0001_initial.py").read_text()
    assert "s3cr3t" not in migration
    assert "s3cr3t" not in done
    for expected in (
        "netstorage.sftp.SFTPStorage(host='sftp.invalid'",
        "netstorage.webdav.WebDAVStorage(url='https://dav.invalid/')",
        "netstorage.sftp.SFTPStorage()",
        "storage=documents.models.archive",
    ):
        assert expected in migration


def run(arguments: list[str]) -> str:
    """Run Python in another process, and return what it prints."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    environment.pop("DJANGO_SETTINGS_MODULE", None)
    done = subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


# --- the package ---------------------------------------------------------------------------------


def test_the_exported_names():
    assert netstorage.__all__ == [
        "AuthenticationError",
        "ConnectError",
        "ConnectionLost",
        "FileChanged",
        "HostKeyError",
        "NetStorageError",
        "PoolClosed",
        "PoolTimeout",
        "ProtocolError",
        "SFTPStorage",
        "SaveManyError",
        "WebDAVStorage",
        "__version__",
        "pool_stats",
    ]
    for name in netstorage.__all__:
        assert getattr(netstorage, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'FTPStorage'"):
        _ = netstorage.FTPStorage


BASES = {
    "NetStorageError": Exception,
    "ConnectError": ConnectionError,
    "AuthenticationError": exceptions.ConnectError,
    "HostKeyError": exceptions.ConnectError,
    "ConnectionLost": ConnectionError,
    "ProtocolError": OSError,
    "PoolTimeout": TimeoutError,
    "PoolClosed": NetStorageError,
    "FileChanged": OSError,
    "SaveManyError": NetStorageError,
}


def test_the_tree_of_errors():
    defined = {
        name
        for name, value in vars(exceptions).items()
        if isinstance(value, type) and value.__module__ == exceptions.__name__
    }
    assert defined == set(BASES)
    assert defined == {name for name in netstorage.__all__ if name[0].isupper()} - {
        "SFTPStorage",
        "WebDAVStorage",
    }
    for name, base in BASES.items():
        error = getattr(exceptions, name)
        assert issubclass(error, NetStorageError)
        assert issubclass(error, base)
        # The docstring's drawing shows it where it hangs.
        (line,) = [line for line in exceptions.__doc__.splitlines() if f" {name}" in line]
        depth = line.index(name) // 4 - 1
        assert depth == len([c for c in error.__mro__ if c.__name__ in BASES]) - 1
        if base.__name__ not in BASES and base is not Exception:
            assert f"({base.__name__})" in line


@pytest.mark.parametrize("name", BASES)
def test_errors_tell_the_file_s_name(name):
    error = getattr(exceptions, name)("something broke")
    assert str(error) == "something broke"
    assert error.filename is None
    error.filename = "a/b.txt"
    assert str(error) == "something broke: 'a/b.txt'"
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again)) == (type(error), str(error))


@pytest.mark.parametrize(
    ("missing", "broken", "works", "extra"),
    [
        ("paramiko", "SFTPStorage", "WebDAVStorage", "sftp"),
        ("webdav4", "WebDAVStorage", "SFTPStorage", "webdav"),
        ("httpx", "WebDAVStorage", "SFTPStorage", "webdav"),
    ],
)
def test_one_extra_is_enough(missing, broken, works, extra):
    """The other storage says what to install; and importing netstorage imports neither."""
    run(
        [
            "-c",
            textwrap.dedent(f"""
                import sys
                sys.modules[{missing!r}] = None
                import netstorage
                assert "paramiko" not in sys.modules or sys.modules["paramiko"] is None
                assert "httpx" not in sys.modules or sys.modules["httpx"] is None
                from django.conf import settings
                settings.configure(INSTALLED_APPS=["netstorage"], STORAGES={{
                    "default": {{"BACKEND": "netstorage.{broken}"}},
                }})
                import django
                django.setup()
                from django.core.exceptions import ImproperlyConfigured
                from django.core.checks import run_checks
                netstorage.{works}(location="x")
                install = 'pip install "django-netstorage[{extra}]"'
                try:
                    netstorage.{broken}
                except ImproperlyConfigured as error:
                    assert install in str(error), error
                else:
                    raise SystemExit("no error")
                (message,) = run_checks()
                assert message.id == "netstorage.E001" and install in message.msg
            """),
        ]
    )


@pytest.mark.parametrize(("broken", "storage"), [("cryptography", "SFTPStorage")])
def test_what_else_is_missing_is_told_as_it_is(broken, storage):
    run(
        [
            "-c",
            textwrap.dedent(f"""
                import sys
                sys.modules[{broken!r}] = None
                import netstorage
                try:
                    netstorage.{storage}
                except ModuleNotFoundError as error:
                    assert error.name.startswith({broken!r}), error
                else:
                    raise SystemExit("no error")
            """),
        ]
    )


def test_the_version_is_one():
    from importlib.metadata import PackageNotFoundError, version

    try:
        installed = version("django-netstorage")
    except PackageNotFoundError:
        installed = netstorage.__version__
    assert installed == netstorage.__version__
    assert json.dumps(netstorage.__version__).count(".") == 2
    assert list(itertools.islice(netstorage.__version__, 1)) == ["0"]
