"""System checks: each id once, with a hint, and never with a connection."""

from __future__ import annotations

import io
import re
from functools import wraps
from pathlib import Path
from types import ModuleType

import pytest
from django.conf import settings
from django.core.checks import Error, Warning, run_checks
from django.core.files.storage import Storage, storages
from django.core.management import call_command
from django.core.management.base import SystemCheckError
from django.db import models
from django.test import override_settings
from django.test.utils import isolate_apps
from django.urls import include, path, set_script_prefix

import netstorage.checks
from netstorage import SFTPStorage, WebDAVStorage
from netstorage.checks import check_fields, check_storages
from netstorage.downloads.views import download
from netstorage.pool import all_pools

PIN = "SHA256:" + "A" * 43
SFTP = {"host": "sftp.invalid", "host_key": PIN}
WEBDAV = {"url": "https://dav.invalid/"}
FILES = {"BACKEND": "django.core.files.storage.FileSystemStorage"}


@pytest.fixture(autouse=True)
def no_network():
    """No check opens a session, or asks for one."""
    before = {pool: pool.stats() for pool in all_pools()}
    yield
    for pool in all_pools():
        now = pool.stats()
        then = before.get(pool)
        assert (now.requests, now.connects) == (
            (then.requests, then.connects) if then else (0, 0)
        ), pool


def sftp(**options) -> dict:
    return {"BACKEND": "netstorage.SFTPStorage", "OPTIONS": {**SFTP, **options}}


def webdav(**options) -> dict:
    return {"BACKEND": "netstorage.WebDAVStorage", "OPTIONS": {**WEBDAV, **options}}


def check(**entries):
    """The messages for these STORAGES."""
    with override_settings(STORAGES=entries):
        messages = check_storages() + check_fields()
    for message in messages:
        assert message.hint
        assert isinstance(message, Error if message.id[-4] == "E" else Warning)
    return messages


def ids(messages) -> list[str]:
    return [message.id for message in messages]


def archive() -> Storage:
    return storages["archive"]


@pytest.fixture
def field():
    """Makes a model with a FileField that has a storage, and checks it."""

    def check_model(*given: Storage, **entries):
        with isolate_apps("tests", "netstorage") as registry, override_settings(STORAGES=entries):
            fields = {
                f"file{number}": models.FileField(storage=storage)
                for number, storage in enumerate(given)
            }
            meta = type("Meta", (), {"app_label": "tests"})
            type("Document", (models.Model,), {**fields, "Meta": meta, "__module__": __name__})
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(netstorage.checks, "apps", registry)
                return check_storages() + check_fields()

    return check_model


def test_a_clean_configuration_has_no_messages(field):
    entries = {
        "default": sftp(known_hosts="/etc/ssh/ssh_known_hosts", password="x"),
        "archive": sftp(known_hosts="/etc/ssh/ssh_known_hosts", password="x", location="archive"),
        "dav": webdav(username="me", password="x", pool={"max_size": 2}),
        "dav2": webdav(username="me", password="x", pool={"max_size": 2}, location="b"),
        "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"},
    }
    assert check(**entries) == []
    assert field(SFTPStorage(host="other.invalid", host_key=PIN), archive, **entries) == []


def test_without_our_storages_there_is_nothing_to_say(field):
    assert check(default=FILES) == []
    assert check() == []
    assert field(None, default=FILES) == []


@pytest.mark.parametrize(
    "entry",
    [
        FILES,
        {**FILES, "OPTIONS": {"locatoin": "x"}},
        {"BACKEND": "no.such.module.Storage"},
        {"BACKEND": "netstorage.NoSuchStorage"},
        {"BACKEND": "netstorage.pool.get_pool"},
        {"BACKEND": ""},
        {"BACKEND": None},
        {},
    ],
)
def test_other_backends_are_django_s_business(entry):
    assert check(default=entry) == []


@pytest.mark.parametrize("entry", [sftp, webdav])
def test_e001_an_unknown_option(entry):
    (message,) = check(archive=entry(locatoin="x"))
    assert message.id == "netstorage.E001"
    assert "STORAGES['archive']" in message.msg
    assert "no option 'locatoin'. Did you mean 'location'?" in message.msg


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"BACKEND": "netstorage.SFTPStorage"}, "needs the option 'host'"),
        ({"BACKEND": "netstorage.sftp.SFTPStorage", "OPTIONS": {}}, "NETSTORAGE_SFTP"),
        ({"BACKEND": "netstorage.WebDAVStorage"}, "needs the option 'url'"),
        (sftp(port="22"), "'port'"),
        (sftp(timeout=0), "'timeout'"),
        (sftp(pool={"max_size": 0}), "'pool'"),
        (sftp(pool={"size": 3}), "'pool' has no entry 'size'"),
        (sftp(host_key="nonsense"), "'host_key'"),
        (webdav(url="dav.invalid"), "'url'"),
        (webdav(url="https://me:secret@dav.invalid/"), "must not hold credentials"),
        (webdav(location="../x"), "'location'"),
    ],
)
def test_e002_an_option_that_is_missing_or_of_no_use(entry, words):
    (message,) = check(archive=entry)
    assert message.id == "netstorage.E002"
    assert "STORAGES['archive'] cannot be used" in message.msg
    assert words in message.msg
    assert "secret" not in message.msg


@pytest.mark.parametrize("value", [{"locatoin": "x"}, 5])
def test_e002_a_setting_of_no_use(value):
    with override_settings(NETSTORAGE_SFTP=value):
        (message,) = check(default=sftp())
    assert message.id == "netstorage.E002"
    assert "NETSTORAGE_SFTP" in message.msg


def test_e002_a_field_s_storage(field):
    (message,) = field(SFTPStorage(host_key=PIN))
    assert message.id == "netstorage.E002"
    assert "tests.Document.file0 cannot be used" in message.msg


def test_e003_no_source_of_host_keys(field):
    (message,) = check(default=sftp(host_key=None))
    assert message.id == "netstorage.E003"
    assert "STORAGES['default']" in message.msg
    assert "known_hosts" in message.hint
    assert "host_key" in message.hint
    assert ids(check(default=sftp(host_key=[]))) == ["netstorage.E003"]
    assert check(default=sftp(host_key=None, known_hosts="/x")) == []
    with override_settings(NETSTORAGE_SFTP={"known_hosts": Path("/x")}):
        assert check(default={"BACKEND": "netstorage.SFTPStorage", "OPTIONS": {"host": "x"}}) == []
    (message,) = field(SFTPStorage(host="sftp.invalid"))
    assert message.id == "netstorage.E003"
    assert "tests.Document.file0" in message.msg


@pytest.mark.parametrize(
    "options",
    [
        {"username": "me", "password": "secret"},
        {"username": "me", "password": "secret", "auth": "digest"},
        {"token": "secret"},
        {"headers": {"X-Token": "secret"}},
    ],
)
@pytest.mark.parametrize("host", ["dav.invalid", "192.168.1.5", "[fe80::1]", "localhost.invalid"])
def test_w004_credentials_over_plain_http(options, host):
    (message,) = check(default=webdav(url=f"http://{host}:8080/dav/", **options))
    assert message.id == "netstorage.W004"
    assert "https" in message.hint
    assert "secret" not in message.msg + message.hint


@pytest.mark.parametrize(
    "options",
    [
        {"url": "https://dav.invalid/", "token": "x"},
        {"url": "http://dav.invalid/"},
        {"url": "http://localhost/", "username": "me", "password": "x"},
        {"url": "http://LOCALHOST:8080/", "username": "me", "password": "x"},
        {"url": "http://127.0.0.1/", "token": "x"},
        {"url": "http://[::1]:8080/", "token": "x"},
    ],
)
def test_w004_is_for_credentials_that_leave_this_machine(options):
    assert check(default=webdav(**options)) == []


def test_w004_is_not_fooled_by_a_name_that_begins_like_an_address():
    entry = webdav(url="http://127.0.0.1.invalid/", token="x")
    assert ids(check(default=entry)) == ["netstorage.W004"]


@pytest.mark.parametrize(
    ("storage", "named"),
    [
        (SFTPStorage(**SFTP, password="s3cr3t"), "'password'"),
        (SFTPStorage(**SFTP, private_key="s3cr3t", passphrase="s3cr3t"), "'passphrase', 'private"),
        (WebDAVStorage(**WEBDAV, token=lambda: "s3cr3t"), "'token'"),
        (WebDAVStorage(**WEBDAV, headers={"A": "s3cr3t"}), "'headers'"),
    ],
)
def test_w005_a_secret_that_a_migration_leaves_out(field, storage, named):
    (message,) = field(storage)
    assert message.id == "netstorage.W005"
    assert named in message.msg
    assert "tests.Document.file0" in message.msg
    assert storage.settings_name in message.hint
    assert "STORAGES" in message.hint
    assert message.obj.name == "file0"
    assert "s3cr3t" not in message.msg + message.hint


def test_w005_names_every_field(field):
    storage = SFTPStorage(**SFTP, password="s3cr3t")
    assert ids(field(storage, storage)) == ["netstorage.W005"] * 2


def test_w005_is_not_for_callables_nor_for_secrets_in_settings(field):
    entries = {"default": sftp(password="s3cr3t"), "archive": sftp(password="s3cr3t")}
    assert field(archive, None, **entries) == []
    with override_settings(NETSTORAGE_SFTP={"password": "s3cr3t"}):
        assert field(SFTPStorage(**SFTP)) == []


@pytest.mark.parametrize("entry", [sftp, webdav])
def test_e006_other_limits_for_the_same_pool(entry):
    entries = {
        "one": entry(location="a", pool={"max_size": 2}),
        "two": entry(location="b", pool={"max_size": 3}),
        "three": entry(location="c", pool={"max_size": 2}),
    }
    (message,) = check(**entries)
    assert message.id == "netstorage.E006"
    assert "STORAGES['two'] and STORAGES['one']" in message.msg
    assert "invalid" in message.msg
    assert check(one=entry(pool={"max_size": 4}), two=entry()) == []
    assert check(one=entry(pool={"max_size": 2}), two=entry(username="other")) == []


def test_e006_between_a_field_and_an_alias(field):
    storage = SFTPStorage(**SFTP, pool={"max_size": 2})
    (message,) = field(storage, default=sftp())
    assert message.id == "netstorage.E006"
    assert "tests.Document.file0 and STORAGES['default']" in message.msg


def test_all_that_is_wrong_is_told_at_once():
    messages = check(
        one=sftp(locatoin="x"),
        two=sftp(port=0),
        three=sftp(host_key=None),
        four=webdav(url="http://dav.invalid/", token="x"),
    )
    assert ids(messages) == [f"netstorage.{n}" for n in ("E001", "E002", "E003", "W004")]


@pytest.mark.parametrize(
    ("order", "warned"),
    [
        (["netstorage.staticfiles", "django.contrib.staticfiles"], False),
        (["django.contrib.staticfiles", "netstorage.staticfiles"], True),
        (["django.contrib.staticfiles"], True),
        ([], False),
    ],
)
def test_w007_django_s_own_collectstatic(order, warned):
    names = [*settings.INSTALLED_APPS, *order]
    with override_settings(INSTALLED_APPS=names, STORAGES={"staticfiles": sftp()}):
        assert ids(check_storages(None)) == (["netstorage.W007"] if warned else [])
    local = {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}
    with override_settings(INSTALLED_APPS=names, STORAGES={"staticfiles": local}):
        assert ids(check_storages(None)) == []


@pytest.fixture
def urls():
    """Makes a URLconf of patterns, and checks storages with it."""

    def check_urls(*patterns, alias="default", **options):
        urlconf = ModuleType("urls")
        urlconf.urlpatterns = list(patterns)
        storage = sftp(**{"base_url": "/media/", "querystring_auth": True, **options})
        with override_settings(ROOT_URLCONF=urlconf):
            return check(**{"default": FILES, alias: storage})

    return check_urls


def mounted(at="media/", **arguments):
    return path(at, include("netstorage.urls"), arguments)


def other(request, name="", storage="default"):
    """A view of somebody's own."""


def decorated(view):
    @wraps(view)
    def inner(request, *args, **kwargs):
        return view(request, *args, **kwargs)

    return inner


@pytest.mark.parametrize(
    ("patterns", "options", "words"),
    [
        ([], {}, "no view"),
        ([mounted("files/")], {}, "no view"),
        ([mounted()], {"base_url": "/files/"}, "no view"),
        ([mounted()], {"base_url": "https://www.example.com/files/"}, "no view"),
        ([path("media/<path:name>", other)], {}, "another view, at 'media/<path:name>'"),
        ([path("media/<path:name>", decorated(other))], {}, "another view"),
        ([path("media/<path:name>", other), mounted()], {}, "another view"),
        ([mounted(storage="archive")], {}, "STORAGES['archive']"),
        ([mounted()], {"alias": "archive"}, "STORAGES['default']"),
    ],
)
def test_w008_links_that_lead_elsewhere(urls, patterns, options, words):
    (message,) = urls(*patterns, **options)
    assert message.id == "netstorage.W008"
    assert f"STORAGES['{options.get('alias', 'default')}'] signs its links" in message.msg
    assert words in message.msg
    assert "netstorage.urls" in message.hint
    assert "verify_url" in message.hint


@pytest.mark.parametrize(
    ("patterns", "options"),
    [
        ([mounted()], {}),
        ([mounted()], {"base_url": "https://www.example.com/media/"}),
        ([mounted("médias/")], {"base_url": "/m%C3%A9dias/"}),
        ([mounted(storage="archive")], {"alias": "archive"}),
        ([mounted(storage=SFTPStorage(**SFTP))], {}),
        ([path("media/<path:name>", decorated(download))], {}),
        # The decorator may give it the storage.
        ([path("media/<path:name>", decorated(decorated(download)))], {"alias": "archive"}),
        ([path("", include([mounted("media/sub/")]))], {"base_url": "/media/sub"}),
        ([], {"querystring_auth": False}),
        ([path("media/<path:name>", other)], {"querystring_auth": False}),
        ([], {"base_url": None}),
    ],
)
def test_w008_is_for_what_is_certain(urls, patterns, options):
    assert urls(*patterns, **options) == []


def test_w008_below_a_script(urls):
    set_script_prefix("/site/")
    try:
        assert urls(mounted(), base_url="/site/media/") == []
        assert urls(mounted(), base_url="media/") == []
        assert ids(urls(mounted(), base_url="/site/files/")) == ["netstorage.W008"]
    finally:
        set_script_prefix("/")


def test_w008_a_field_s_storage(field):
    """It has no alias; and static files are never signed."""
    storage = SFTPStorage(**SFTP, base_url="/media/", querystring_auth=True)
    for patterns, expected in (
        ([], ["netstorage.W008"]),
        ([mounted(storage=storage)], []),
        ([mounted()], []),
    ):
        urlconf = ModuleType("urls")
        urlconf.urlpatterns = patterns
        with override_settings(ROOT_URLCONF=urlconf):
            assert ids(field(storage)) == expected
    static = {"BACKEND": "netstorage.staticfiles.ManifestSFTPStorage"}
    static["OPTIONS"] = {**SFTP, "base_url": "/static/", "querystring_auth": True}
    urlconf.urlpatterns = []
    with override_settings(ROOT_URLCONF=urlconf):
        assert check(assets=static) == []


@pytest.mark.parametrize("alias", ["default", "archive"])
def test_e009_a_view_that_anybody_could_use(urls, alias):
    (message,) = urls(mounted(storage=alias), alias=alias, querystring_auth=False)
    assert message.id == "netstorage.E009"
    assert f"STORAGES['{alias}']" in message.msg
    assert "querystring_auth" in message.hint
    assert "permission" in message.hint


@pytest.mark.parametrize(
    "mount",
    [
        mounted(permission=lambda request, name: True),
        mounted(storage="archive"),
        mounted(storage=SFTPStorage(**SFTP)),
        path("media/<path:name>", decorated(download)),
    ],
)
def test_e009_is_for_what_is_certain(urls, mount):
    assert urls(mount, querystring_auth=False) == []


def test_ids_are_unique_and_all_are_tested():
    """In the module each id stands once; and each has a test here that is named after it."""
    source = Path(netstorage.checks.__file__).read_text()
    used = re.findall(r'"(?:netstorage\.)?([EW]\d{3})"', source)
    assert sorted(used, key=lambda found: found[1:]) == [
        "E001",
        "E002",
        "E003",
        "W004",
        "W005",
        "E006",
        "W007",
        "W008",
        "E009",
    ]
    for number in used:
        assert any(name.startswith(f"test_{number.lower()}_") for name in globals())


def test_manage_py_check_runs_them():
    output = io.StringIO()
    # Django's own check wants one, once any test has installed its app.
    static = {"staticfiles": {"BACKEND": "django.core.files.storage.InMemoryStorage"}}
    with override_settings(STORAGES={"default": sftp(), **static}):
        call_command("check", stdout=output)
        assert "no issues" in output.getvalue()
    broken = {"default": sftp(locatoin="x"), "dav": webdav(url="http://x.invalid/", token="x")}
    with override_settings(STORAGES=broken | static):
        assert ids(run_checks()) == ["netstorage.E001", "netstorage.W004"]
        with pytest.raises(SystemCheckError, match=r"netstorage\.E001"):
            call_command("check", stdout=output, stderr=output)
        with override_settings(SILENCED_SYSTEM_CHECKS=["netstorage.E001"]):
            call_command("check", stdout=output, stderr=output)
