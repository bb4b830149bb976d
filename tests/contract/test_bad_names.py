"""Names of every kind: each works all the way, or is refused clearly and leaves nothing."""

from __future__ import annotations

import errno
import unicodedata

import pytest
from django.core.exceptions import SuspiciousFileOperation
from django.core.files.base import ContentFile

from tests.contract.helpers import HIDES_DOTS, TAKES_FOR_LATIN_1, raw_names, read

CONTROL = ["new\nline", "return\r", "tab\tbed", "bell\x07", "del\x7f", "dir\n/file.txt"]
"""Django's get_valid_name() drops such characters; a direct save() does not."""

CUT = ["ques?tion", "semi;colon", "ques?dir/semi;dir/file.txt"]
"""WsgiDAV takes the end of such a Destination for a query or parameters."""

PLAIN = [
    "trailing.",
    "trailing ",
    " leading",
    "emoji-\U0001f5ce\U0001f600.txt",
    unicodedata.normalize("NFC", "ångström.txt"),
    unicodedata.normalize("NFD", "ångström.txt"),
    "pct%41",
    "a%20b",
    "a%2Fb",
    "hash#tag",
    "a&b+c=d,e@f",
    "~",
    "~root",
    "-rf",
    "CON",
    "a:b",
    "quotes'\"`",
    "<s>&amp",
    "[x]*",
    "$HOME",
    "a..b",
    "double..",
    "n" * 255,
    "é" * 127 + "n",
    "dir. /file .txt",
    "ü/ü/%/#/file",
]

TOO_LONG = ["n" * 256, "é" * 128, "n" * 256 + "/file.txt", "/".join(["d" * 200] * 25)]

OUTSIDE = [
    "../file.txt",
    "..",
    "dir/../../file.txt",
    "/etc/passwd",
    "//etc/passwd",
    "..\\file.txt",
    "dir\\..\\..\\file.txt",
    "nul\0byte",
    "lone-\ud800-surrogate",
]


def ends(name):
    """A short id for a parameter."""
    return ascii(name if len(name) < 30 else f"{name[:4]}…{len(name)}")


@pytest.mark.parametrize("name", PLAIN, ids=ends)
def test_unusual_names_work_all_the_way(storage, name):
    assert storage.save(name, ContentFile(b"named")) == name
    assert storage.exists(name)
    assert storage.size(name) == 5
    assert read(storage, name) == b"named"
    directory, _, base = name.rpartition("/")
    assert storage.listdir(directory) == ([], [base])
    storage.delete(name)
    assert not storage.exists(name)
    assert storage.listdir(directory) == ([], [])


@pytest.mark.parametrize("name", [".hidden", "..."])
def test_hidden_names_work_though_a_server_may_not_list_them(storage, server, name):
    assert storage.save(name, ContentFile(b"named")) == name
    assert read(storage, name) == b"named"
    assert storage.exists(name)
    assert storage.listdir("") == ([], [] if server.name in HIDES_DOTS else [name])
    storage.delete(name)
    assert not storage.exists(name)


def test_a_normal_form_is_kept_as_it_is(storage):
    """Two names for the eye, and for Linux."""
    composed, decomposed = (unicodedata.normalize(form, "é.txt") for form in ("NFC", "NFD"))
    assert storage.save(composed, ContentFile(b"NFC")) == composed
    assert storage.save(decomposed, ContentFile(b"NFD")) == decomposed
    assert read(storage, composed) == b"NFC"
    assert read(storage, decomposed) == b"NFD"
    assert sorted(storage.listdir("")[1]) == sorted([composed, decomposed])


def test_a_backslash_is_a_slash_when_saved(storage):
    """Django's Storage.save() makes it one."""
    assert storage.save("dir\\file.txt", ContentFile(b"below")) == "dir/file.txt"
    assert read(storage, "dir/file.txt") == b"below"


@pytest.mark.parametrize(
    ("name", "clean"), [("a//b", "a/b"), ("./c", "c"), ("a/./d", "a/d"), ("a/../e", "e")]
)
def test_detours_are_dropped(storage, name, clean):
    with storage.open(name, "wb") as file:
        file.write(b"clean")
    assert read(storage, clean) == b"clean"
    assert storage.exists(name)


@pytest.mark.parametrize("name", OUTSIDE, ids=ends)
def test_names_that_lead_outside_are_refused_before_anything_is_sent(storage, name):
    before = storage.pool.stats().requests
    for use in (
        storage.exists,
        storage.size,
        storage.delete,
        storage.listdir,
        storage.get_modified_time,
        storage.open,
        lambda name: storage.open(name, "wb"),
        lambda name: storage.save(name, ContentFile(b"outside")),
        lambda name: storage.save(None, ContentFile(b"outside", name=name)),
    ):
        with pytest.raises(SuspiciousFileOperation):
            use(name)
    assert storage.pool.stats().requests == before


@pytest.mark.parametrize("name", TOO_LONG, ids=ends)
def test_too_long_names_are_refused(storage, name):
    storage.save("kept.txt", ContentFile(b"kept"))
    for save in (
        lambda: storage.save(name, ContentFile(b"long")),
        lambda: overwrite(storage, name, b"long"),
    ):
        with pytest.raises(OSError, match="too long") as caught:
            save()
        assert caught.value.errno == errno.ENAMETOOLONG
        assert caught.value.filename == name
    assert read(storage, "kept.txt") == b"kept"
    # Of a path that is too long in sum, the parents that still fit were made, as by os.makedirs.
    if len(name) < 300:
        assert set(raw_names(storage)) == {"kept.txt"}


@pytest.mark.parametrize("name", CONTROL, ids=ends)
def test_control_characters_are_kept_or_refused(storage, server, name):
    """sshd, ProFTPD, asyncssh keep them; what HTTP servers and Go's make of them nobody knows."""
    storage.save("kept.txt", ContentFile(b"kept"))
    if server.name in {"embedded-sftp", "sshd", "docker-sshd", "proftpd"}:
        assert storage.save(name, ContentFile(b"named")) == name
        assert read(storage, name) == b"named"
        return
    for save in (
        lambda: storage.save(name, ContentFile(b"named")),
        lambda: overwrite(storage, name, b"named"),
    ):
        with pytest.raises(OSError, match=r"control characters|400 Bad Request") as caught:
            save()
        assert caught.value.errno == errno.EINVAL
        assert caught.value.filename == name
    assert set(raw_names(storage)) == {"kept.txt"}


@pytest.mark.parametrize("name", CUT, ids=ends)
def test_cutting_characters_are_kept_or_refused(storage, server, name):
    storage.save("kept.txt", ContentFile(b"kept"))
    if server.name != "embedded-webdav":
        assert storage.save(name, ContentFile(b"named")) == name
        assert read(storage, name) == b"named"
        return
    for save in (
        lambda: storage.save(name, ContentFile(b"named")),
        lambda: overwrite(storage, name, b"named"),
    ):
        with pytest.raises(OSError, match="use another") as caught:
            save()
        assert caught.value.errno == errno.EINVAL
        assert caught.value.filename == name
    assert storage.listdir("")[1] == ["kept.txt"]


def test_bytes_that_are_no_text(storage, server):
    """Found on old disks: they come and go as surrogate escapes, where the server takes them."""
    name = "bytes-\udcff.txt"
    storage.save("kept.txt", ContentFile(b"kept"))
    if server.name in {"embedded-webdav", "lighttpd"}:
        with pytest.raises(OSError, match="400 Bad Request") as caught:
            storage.save(name, ContentFile(b"named"))
        assert caught.value.errno == errno.EINVAL
        assert caught.value.filename == name
        return
    assert storage.save(name, ContentFile(b"named")) == name
    assert read(storage, name) == b"named"
    listed = "bytes-ÿ.txt" if server.name in TAKES_FOR_LATIN_1 else name
    assert sorted(storage.listdir("")[1]) == sorted(["kept.txt", listed])


def overwrite(storage, name, data):
    """Write to a name without asking first whether it is free."""
    file = storage.open(name, "wb")
    file.write(data)
    try:
        file.close()
    finally:
        file.discard()
