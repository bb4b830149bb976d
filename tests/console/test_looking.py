"""``ls``, ``tree`` and ``du`` tell what lies where."""

from __future__ import annotations

import io
import os
import re

import pytest
from django.core.files.base import ContentFile
from django.core.files.storage import storages
from django.core.management import CommandError, call_command

from netstorage.console.terminal import size_of

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


def test_du(run, alias):
    assert run("du", f"{alias}:") == (
        f"      5 B  {alias}:dir/in\n  1.0 MiB  {alias}:dir\n  1.0 MiB  {alias}:\n"
    )
    assert run("du", "-s", f"{alias}:dir/in") == f"      5 B  {alias}:dir/in\n"
    assert run("du", f"{alias}:a b.txt") == f"      1 B  {alias}:a b.txt\n"


@pytest.mark.parametrize("words", [["ls"], ["ls", "-l"], ["ls", "-R"], ["tree"], ["du"]])
def test_what_is_not_there(run, nas, words):
    nas.save("here.txt", ContentFile(b""))
    with pytest.raises(CommandError, match=r"^(nas:)?missing: ") as caught:
        run(*words, "nas:missing")
    assert "\n" not in str(caught.value)


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
