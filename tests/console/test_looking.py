"""``ls``, ``tree`` and ``du`` tell what lies where."""

from __future__ import annotations

import io
import os
import re

import httpx
import pytest
from django.core.files.base import ContentFile
from django.core.files.storage import FileSystemStorage, storages
from django.core.management import CommandError, call_command
from django.test import override_settings

from netstorage.console.terminal import size_of
from netstorage.sftp.wire import Wire
from netstorage.storage import TEMPORARY
from tests.servers.scripted import Loop, Scripted, attributes, names
from tests.servers.scripted_http import MemoryDAV, ScriptedHTTP

FEW_SERVERS = True

ALIASES = ["nas", "disk", "memory", "bucket"]
ONLY_UTF_8 = {"embedded-webdav"}
"""Servers that answer 500 where their disk has a name that is no UTF-8."""

TIME = r"\d{4}-\d\d-\d\d \d\d:\d\d"


@pytest.fixture(params=ALIASES)
def alias(request, nas):
    """Each kind of storage in turn, with some files."""
    for name, size in [("a b.txt", 1), ("dir/ü.bin", 3000), ("dir/in/c", 5), ("dir/z", 2**20)]:
        storages[request.param].save(name, ContentFile(bytes(size)))
    return request.param


def test_ls(run, alias):
    assert run("ls", f"{alias}:") == "a b.txt\ndir/\n"
    assert run("ls", f"{alias}:dir/") == "in/\nz\nü.bin\n"
    assert run("ls", f"{alias}:dir/z") == "dir/z\n"


def test_ls_long(run, alias):
    rows = run("ls", "-l", f"{alias}:dir").splitlines()
    time = TIME if alias != "bucket" else "-" + " " * 15
    assert re.fullmatch(rf"        -  ({TIME}|- {{15}})  in/", rows[0])
    assert re.fullmatch(rf"  1\.0 MiB  {time}  z", rows[1])
    assert re.fullmatch(rf"  2\.9 KiB  {time}  ü\.bin", rows[2])
    assert re.fullmatch(rf"      1 B  {time}  a b\.txt\n", run("ls", "-l", f"{alias}:a b.txt"))


def test_ls_recursive(run, alias):
    assert run("ls", "-R", f"{alias}:") == (
        f"{alias}:\na b.txt\ndir/\n\n{alias}:dir\nin/\nz\nü.bin\n\n{alias}:dir/in\nc\n"
    )


def test_tree(run, alias):
    assert run("tree", f"{alias}:") == (
        f"{alias}:\n"
        "├── a b.txt\n"
        "└── dir/\n"
        "    ├── in/\n"
        "    │   └── c\n"
        "    ├── z\n"
        "    └── ü.bin\n"
        "2 directories, 4 files\n"
    )


def test_tree_where_the_terminal_has_few_characters(nas):
    nas.save("ü/b", ContentFile(b""))
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    call_command("netstorage", "tree", "nas:", stdout=out)
    out.flush()
    shown = out.buffer.getvalue().decode("ascii")
    assert shown == "nas:\n`-- ?/\n    `-- b\n1 directory, 1 file\n"


@pytest.fixture
def asked(monkeypatch):
    """What servers are asked, one by one."""
    seen = []
    send, request = httpx.Client.send, Wire.request

    def sending(client, asked, **options):
        seen.append(asked.method)
        return send(client, asked, **options)

    def requesting(wire, kind, fields):
        seen.append(kind)
        return request(wire, kind, fields)

    monkeypatch.setattr(httpx.Client, "send", sending)
    monkeypatch.setattr(Wire, "request", requesting)
    return seen


def test_sizes_and_times_come_with_the_listing(run, nas, asked):
    """``ls -l`` asks no more than ``ls``, and ``du`` no more than ``tree``."""
    for number in range(50):
        nas.save(f"dir/{number:02}", ContentFile(bytes(number)))
    nas.save("dir/in/x", ContentFile(bytes(1000)))

    def count(*words):
        asked.clear()
        return run(*words), len(asked)

    rows, more = count("ls", "-l", "nas:dir")
    _, less = count("ls", "nas:dir")
    assert 0 < more == less < 50
    assert re.fullmatch(rf"     49 B  {TIME}  49", rows.splitlines()[49])
    sums, more = count("du", "nas:")
    _, less = count("tree", "nas:")
    assert 0 < more == less < 50
    assert sums.splitlines()[-1] == f"{size_of(sum(range(50)) + 1000):>9}  nas:"


@pytest.fixture(params=["sftp", "webdav"])
def terse(request):
    """A server whose listings tell no sizes, as the alias ``default``; a and b lie there."""
    files = {"a": b"123", "b": b"12345"}
    if request.param == "sftp":

        def bare(peer, asked):
            if asked.name != "READDIR" or not (left := peer._handles[asked.strings[0]][1]):
                return None
            listed = [(name, attributes(mode=0o100644)) for name in left]
            left.clear()
            return names(asked.id, listed)

        loop = Loop()
        server = Scripted(loop, bare)
        for name, content in files.items():
            server.put(name, content)
        yield "SFTP", server.options
        server.stop()
        loop.stop()
        return
    dav = MemoryDAV(files)

    def without_sizes(asked):
        reply = dav(asked)
        if asked.headers.get("depth") == "1":
            reply.body = re.sub(rb"<D:getcontentlength>.*?</D:getcontentlength>", b"", reply.body)
        return reply

    with ScriptedHTTP(without_sizes) as server:
        yield "WebDAV", {"url": server.url}


def test_what_a_listing_does_not_tell_is_asked_for(run, terse):
    kind, options = terse
    entry = {"BACKEND": f"netstorage.{kind}Storage", "OPTIONS": options}
    with override_settings(STORAGES={"default": entry}):
        assert run("du", "default:") == "      8 B  default:\n"
        rows = [row.split() for row in run("ls", "-l", "default:").splitlines()]
        assert [(row[0], row[-1]) for row in rows] == [("3", "a"), ("5", "b")]
        storages["default"].pool.close()


class Longer(FileSystemStorage):
    """A storage whose files have another length than on its disk, as encrypted ones have."""

    def size(self, name):
        return super().size(name) + 2046


def test_a_storage_on_disk_tells_sizes_itself(run, nas, tmp_path):
    entry = {
        "BACKEND": "tests.console.test_looking.Longer",
        "OPTIONS": {"location": tmp_path / "longer"},
    }
    with override_settings(STORAGES={"longer": entry}):
        storages["longer"].save("x", ContentFile(b"12"))
        assert run("du", "longer:") == "  2.0 KiB  longer:\n"
        assert run("ls", "-l", "longer:").startswith("  2.0 KiB  ")


def test_uploads_that_are_not_finished_do_not_show(run, alias):
    """Whatever the storage is; a name that only begins as theirs is one like any other."""
    hidden, user = f"dir/{TEMPORARY}{'0' * 32}", f"dir/{TEMPORARY}x"
    for name in (hidden, user):
        storages[alias].save(name, ContentFile(bytes(2**21)))
    shown = run("ls", f"{alias}:dir").splitlines()
    assert shown == [f"{TEMPORARY}x", "in/", "z", "ü.bin"]
    assert hidden.removeprefix("dir/") not in run("tree", f"{alias}:")
    assert run("du", "-s", f"{alias}:").startswith("  3.0 MiB")
    for name in (hidden, user):
        storages[alias].delete(name)


def test_du(run, alias):
    assert run("du", f"{alias}:") == (
        f"      5 B  {alias}:dir/in\n  1.0 MiB  {alias}:dir\n  1.0 MiB  {alias}:\n"
    )
    assert run("du", "-s", f"{alias}:dir/in") == f"      5 B  {alias}:dir/in\n"
    assert run("du", f"{alias}:a b.txt") == f"      1 B  {alias}:a b.txt\n"


@pytest.mark.parametrize("words", [["ls"], ["ls", "-l"], ["ls", "-R"], ["tree"], ["du"], ["cat"]])
@pytest.mark.parametrize("other", ["nas", "disk", "memory", "bucket"])
def test_what_is_not_there(run, nas, words, other):
    """It is told as it was typed, and a bucket is not taken to have every directory."""
    storages[other].save("here.txt", ContentFile(b""))
    with pytest.raises(CommandError, match=rf"^{other}:missing: ") as caught:
        run(*words, f"{other}:missing")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("other", ["nas", "disk", "memory", "bucket"])
def test_a_file_is_no_tree(run, nas, other):
    storages[other].save("here.txt", ContentFile(b""))
    with pytest.raises(CommandError, match=rf"^{other}:here.txt: is a file$"):
        run("tree", f"{other}:here.txt")


def test_cat_goes_on_with_the_others(nas):
    for name in "ab":
        nas.save(name, ContentFile(name.encode()))
    out = io.StringIO()
    with pytest.raises(CommandError) as caught:
        call_command("netstorage", "cat", "nas:a", "nas:missing", "nas:", "nas:b", stdout=out)
    assert out.getvalue() == "ab"
    first, *lines = str(caught.value).splitlines()
    assert first == "2 were not shown:"
    assert [line.partition(": ")[0] for line in lines] == ["nas:missing", "nas"]


@pytest.mark.parametrize("subcommand", ["ls", "tree", "du", "cat", "rm"])
def test_names_outside_are_refused_before_anything_is_sent(run, nas, subcommand, monkeypatch):
    monkeypatch.setattr(type(nas), "_run", None)
    for path in ("..", "../x", "a/../../x", "/../x"):
        with pytest.raises(CommandError, match="leads out of the storage"):
            run(subcommand, f"nas:{path}")


def test_a_listing_that_leads_elsewhere_is_refused(run, nas):
    for words in (["ls"], ["ls", "-l"], ["ls", "-R"], ["tree"], ["du"]):
        with pytest.raises(CommandError, match=r"escaped.txt' leads elsewhere"):
            run(*words, "hostile:")


def test_an_empty_directory_and_a_root_that_is_not_there_yet(run, nas):
    with pytest.raises(CommandError, match=r"^nas: "):
        run("ls", "nas:")
    nas.delete(nas.save("dir/x", ContentFile(b"")))
    assert run("ls", "nas:dir") == ""
    assert run("tree", "nas:dir") == "nas:dir\n0 directories, 0 files\n"
    assert run("du", "nas:") == "      0 B  nas:dir\n      0 B  nas:\n"


def test_what_cannot_be_listed_does_not_hide_the_rest(run, nas, monkeypatch):
    """Each of the directories that refuse is told at the end; after twenty, their number."""
    for number in range(25):
        nas.save(f"{number:02}/x", ContentFile(b"x"))
    listdir = type(storages["disk"]).listdir
    run("cp", "-r", "nas:", "disk:")

    def refusing(storage, path):
        if path:
            raise PermissionError(13, "Permission denied", path)
        return listdir(storage, path)

    monkeypatch.setattr(type(storages["disk"]), "listdir", refusing)
    out = io.StringIO()
    with pytest.raises(CommandError) as caught:
        call_command("netstorage", "ls", "-R", "disk:", stdout=out)
    assert out.getvalue().splitlines()[-1] == "24/"
    lines = str(caught.value).splitlines()
    assert lines[0] == "25 were not listed:"
    assert lines[1] == "disk:00: Permission denied"
    assert lines[-2:] == ["disk:19: Permission denied", "and 5 more"]


def test_strange_names_are_shown_in_a_line(run, server, nas):
    """Line breaks, escapes and what is no UTF-8: replaced, and nothing breaks."""
    nas.save("x", ContentFile(b""))
    folder = os.fsencode(server.root / nas.location)
    names = ["日本".encode()]
    if server.name not in ONLY_UTF_8:
        names += [b"caf\xe9"]
    if server.protocol == "sftp":
        names += [b"line\nbreak", b"\x1b[31mred"]
    for name in names:
        with open(os.path.join(folder, name), "wb") as file:
            file.write(b"12345")
    shown = run("ls", "-l", "nas:").splitlines()
    replaced = {name.decode(errors="replace").replace("\n", "\ufffd") for name in names}
    assert {line[29:] for line in shown} == {"x"} | {x.replace("\x1b", "\ufffd") for x in replaced}
    assert all(line.startswith("      5 B") for line in shown if not line.endswith(" x"))
    assert len(run("tree", "nas:").splitlines()) == len(names) + 3
    assert run("du", "-s", "nas:") == f"{size_of(5 * len(names)):>9}  nas:\n"


def test_links_to_directories_are_not_followed(run, server, nas):
    if server.protocol != "sftp":
        return  # WebDAV knows no links
    nas.save("dir/x", ContentFile(b"12345"))
    (server.root / nas.location / "dir" / "loop").symlink_to("..")
    (server.root / nas.location / "nowhere").symlink_to("missing")
    assert run("ls", "-R", "nas:") == "nas:\ndir/\nnowhere\n\nnas:dir\nloop/\nx\n"
    assert run("tree", "nas:").splitlines()[-1] == "2 directories, 2 files"
    assert run("du", "-s", "nas:") == "      5 B  nas:\n"
    assert run("ls", "-l", "nas:").splitlines()[1].split() == ["-", "-", "nowhere"]


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 KiB"),
        (2**20, "1.0 MiB"),
        (5 * 2**30, "5.0 GiB"),
        (300 * 2**40, "300 TiB"),
    ],
)
def test_sizes(count, text):
    assert size_of(count) == text


def test_a_server_that_cannot_list_is_told_in_a_line(run, server, nas):
    if server.name not in ONLY_UTF_8:
        return
    nas.save("x", ContentFile(b""))
    with open(os.path.join(os.fsencode(server.root / nas.location), b"caf\xe9"), "wb"):
        pass
    with pytest.raises(CommandError, match=r"^nas: the server answered 500"):
        run("ls", "nas:")
