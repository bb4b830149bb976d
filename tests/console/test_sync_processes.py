"""``sync`` as a process: killed, interrupted, twice at once, without its server; and its memory."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from django.conf import settings
from django.core.files.base import ContentFile
from django.core.files.storage import FileSystemStorage, Storage

from netstorage.console import journal
from netstorage.storage import TEMPORARY
from tests.console.conftest import PATIENCE
from tests.console.test_processes import interrupt, lose_server, through
from tests.contract.helpers import WRITES_IN_PLACE, remove_temporaries
from tests.contract.relay import Relay

FEW_SERVERS = True

COUNT = 200
HELD = 2**17
"""Bytes that clients send for some of so many files."""
LARGE = 256 * 2**20
DIRECTORIES, FILES = 100, 1000


class Paged(FileSystemStorage):
    """A disk that notes what is opened, in a process whose journal has ten files on a page."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        journal.PAGE_FILES = 10

    def _open(self, name, mode="rb"):
        with Path(self.location).with_suffix(".opened").open("a") as log:
            log.write(f"{name}\n")
        return super()._open(name, mode)


class Many(Storage):
    """A storage with 100,000 files."""

    def __init__(self, without: str = ""):
        self._without = without

    def listdir(self, path):
        if not path:
            return [f"{number:03}" for number in range(DIRECTORIES)], []
        names = [f"{number:05}" for number in range(FILES)]
        return [], [name for name in names if f"{path}/{name}" != self._without]

    def exists(self, name):
        return True

    def size(self, name):
        return 1

    def _open(self, name, mode="rb"):
        if name.count("/") != 1:
            raise IsADirectoryError(21, "Is a directory", name)
        return ContentFile(b"x", name)

    def _save(self, name, content):
        assert name == self._without or TEMPORARY in name
        return name

    def delete(self, name):
        assert TEMPORARY in name


@pytest.fixture
def disk(nas, tmp_path):
    """The folder behind ``disk:``, with many files of three years."""
    folder = tmp_path / "source"
    for number in range(COUNT):
        path = folder / f"{number % 7}/{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(1000))
        os.utime(path, (1_500_000_000, 1_500_000_000))
    return folder


@pytest.fixture
def aliases(disk):
    """What the processes have for STORAGES."""
    options = {"location": str(disk)}
    entry = {"BACKEND": f"{__name__}.Paged", "OPTIONS": options}
    return {"disk": entry, "nas": settings.STORAGES["nas"]}


def contents(folder: Path) -> dict[str, bytes]:
    """What users see of it."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and TEMPORARY not in str(path.relative_to(folder))
    }


def opened(disk: Path) -> list[str]:
    """What was opened since this was asked."""
    log = disk.with_suffix(".opened")
    names = log.read_text().splitlines()
    log.unlink()
    return names


def numbers(told: str) -> tuple[int, int]:
    """How many files were copied, and how many were the same."""
    match = re.fullmatch(r"(\d+) files? \(.*\) copied, (\d+) the same\n", told)
    assert match, told
    return int(match[1]), int(match[2])


def finish(child) -> tuple[int, int]:
    out, err = child.communicate(timeout=PATIENCE)
    assert (child.returncode, err) == (0, b"")
    return numbers(out.decode())


@pytest.mark.parametrize("checksum", [[], ["--checksum"]], ids=["times", "checksum"])
def test_a_killed_process(manage, server, nas, aliases, disk, checksum):
    """Whoever begins again goes on from there; nothing half shows, and no journal stays."""
    root = server.root / nas.location
    with Relay(server) as relay:
        relay.hold_after(HELD)
        words = ["sync", "disk:", "nas:t", "--jobs", "4", *checksum]
        child = manage({**aliases, **through(relay, nas)}, *words)
        relay.wait_until_held()
        child.kill()
        child.communicate()
        relay.cut()
    source = contents(disk)
    there = contents(root / "t")
    assert 10 < len(there) < COUNT
    assert there.items() <= source.items()
    pages = list((root / "t").glob(f"{TEMPORARY}*/*"))
    assert pages
    before = opened(disk)
    copied, same = finish(manage(aliases, *words))
    assert copied + same == COUNT
    assert contents(root / "t") == source
    again = opened(disk)
    if checksum:
        # All that a page tells of was neither copied nor read again.
        known = len(set(before) - set(again))
        assert known >= 10 * (len(pages) - 4)
        assert known > 0
    else:
        assert len(again) == copied
    assert not [path for path in (root / "t").glob(f"{TEMPORARY}*") if path.is_dir()]
    remove_temporaries(server, nas)


def test_ctrl_c(manage, server, nas, aliases, disk):
    root = server.root / nas.location
    with Relay(server) as relay:
        relay.hold_after(HELD)
        words = ["sync", "disk:", "nas:t", "--jobs", "4"]
        child = manage({**aliases, **through(relay, nas)}, *words)
        relay.wait_until_held()
        told = interrupt(child, relay)
    assert child.returncode == 130
    match = re.fullmatch(rf"CommandError: Interrupted: (\d+) of {COUNT} were copied\.\n", told)
    assert match, told
    assert contents(root / "t").items() <= contents(disk).items()
    assert list((root / "t").glob(f"{TEMPORARY}*/*"))
    assert finish(manage(aliases, *words)) == (COUNT - int(match[1]), int(match[1]))
    assert contents(root / "t") == contents(disk)
    if server.name in WRITES_IN_PLACE:
        # It may begin with an upload that was broken off, once that was to be removed.
        remove_temporaries(server, nas)


@pytest.mark.parametrize("direction", ["to", "from"])
def test_a_server_that_goes_away(manage, server, nas, aliases, disk, direction):
    root = server.root / nas.location
    words = ["sync", "disk:", "nas:t", "--delete"]
    if direction == "from":
        finish(manage(aliases, "sync", "disk:", "nas:s"))
        aliases["disk"]["OPTIONS"]["location"] = str(disk.parent)
        words = ["sync", "nas:s", "disk:back"]
    with Relay(server, answers=direction == "from") as relay:
        relay.hold_after(HELD)
        lose_server(manage({**aliases, **through(relay, nas)}, *words), relay)
    target = root / "t" if direction == "to" else disk.parent / "back"
    assert contents(target).items() < contents(disk).items()
    child = manage(aliases, *words)
    _, err = child.communicate(timeout=PATIENCE)
    assert (child.returncode, err) == (0, b"")
    assert contents(target) == contents(disk)
    # Nobody could reach the server to remove what it has.
    remove_temporaries(server, nas)


def test_two_at_once(manage, server, nas, aliases, disk):
    words = ["sync", "disk:", "nas:t", "--delete"]
    children = [manage(aliases, *words) for _ in range(2)]
    for child in children:
        _, err = child.communicate(timeout=PATIENCE)
        assert (child.returncode, err) == (0, b"")
    assert contents(server.root / nas.location / "t") == contents(disk)


def test_a_bar_where_somebody_watches(watched, nas, aliases, disk):
    """Within 80 columns, with the rate and the time that is left; gone at the end."""
    with (disk / "large.bin").open("wb") as file:
        file.truncate(LARGE)
    lines = watched(aliases, "sync", "disk:", "nas:t")
    assert any(re.search(r"^copied .*/268\.6 MB .*B/s \d:\d\d:\d\d$", x) for x in lines), lines
    assert max(map(len, lines)) <= 80
    assert lines[-1].strip() == ""


def test_memory_for_a_large_file(peak, nas, aliases, disk, tmp_path):
    """It takes no room on this disk, and no memory on its way."""
    usual = peak(aliases, "sync", "disk:", "nas:t")
    path = disk / "large.bin"
    with path.open("wb") as file:
        file.truncate(LARGE)
    os.utime(path, (1_500_000_000, 1_500_000_000))
    aliases["disk"]["OPTIONS"]["location"] = str(tmp_path)
    for words in (["disk:source", "nas:t"], ["nas:t", "disk:back"]):
        assert peak(aliases, "sync", *words) < usual + LARGE / 4
    assert (tmp_path / "back/large.bin").stat().st_size == LARGE


def test_memory_for_many_files(peak):
    """The most that is known of a file at a time is its line in the plan, on disk."""
    many = {"BACKEND": f"{__name__}.Many"}
    all_but_one = {**many, "OPTIONS": {"without": "042/00500"}}
    aliases = {
        "many": many,
        "almost": all_but_one,
        "none": {"BACKEND": "tests.console.conftest.Bucket"},
    }
    usual = peak(aliases, "sync", "--help")
    limit = usual + 30 * 2**20
    assert peak(aliases, "sync", "many:", "none:", "--dry-run") < limit
    assert peak(aliases, "sync", "many:", "almost:") < limit
