"""Pages show what the commands do: each line is typed, and its answer compared."""

from __future__ import annotations

import re
import shlex

import pytest
from django.conf import settings
from django.core.files.base import ContentFile

from tests.console.conftest import PATIENCE, ROOT
from tests.console.gallery.models import Photo
from tests.contract.helpers import grow_old

FEW_SERVERS = True

PAGE = (ROOT / "docs/howto-console.md").read_text()
MOVING = (ROOT / "docs/howto-moving.md").read_text()


@pytest.fixture
def project(nas, tmp_path):
    """What the pages have: files, and aliases."""
    (tmp_path / "scans/2026").mkdir(parents=True)
    (tmp_path / "scans/2026/1.tif").write_bytes(bytes(2_500_000))
    (tmp_path / "scans/index.txt").write_text("1.tif\n")
    disk = settings.STORAGES["disk"]
    return {"nas": settings.STORAGES["nas"], "default": disk, "disk": disk}


def commands(page: str) -> list[list[tuple[str, str]]]:
    """What is typed in each block, and the answer."""
    blocks = re.findall(r"^```console\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    typed = [
        re.findall(r"^\$ \./manage\.py netstorage (.*)\n((?:[^$].*\n)*)", block, re.MULTILINE)
        for block in blocks
    ]
    assert [len(each) for each in typed] == [block.count("$ ") for block in blocks]
    return typed


def test_every_command_says_what_the_page_shows(manage, project, tmp_path):
    files, _ = commands(PAGE)
    assert len(files) > 10
    type_all(files, manage, project, tmp_path)


def type_all(typed, manage, project, folder):
    for words, answer in typed:
        child = manage(project, *shlex.split(words), cwd=folder)
        told = b"".join(child.communicate(timeout=PATIENCE)).decode()
        assert told == answer, words
        assert child.returncode == ("CommandError" in answer)


def test_sync_says_what_the_page_on_moving_shows(manage, project, tmp_path):
    (typed,) = commands(MOVING)
    (tmp_path / "disk/scans").mkdir(parents=True)
    for name in ("1.tif", "2.tif"):
        (tmp_path / "disk/scans" / name).write_bytes(bytes(2_500_000))
    type_all(typed, manage, project, tmp_path)


def test_orphans_are_what_the_page_shows(manage, server, nas, project, database):
    _, orphans = commands(PAGE)
    assert len(orphans) == 2
    for name, content in [("2025/a.jpg", bytes(2_500_000)), ("2026/kept.jpg", b"kept")]:
        nas.save(name, ContentFile(content))
        grow_old(server, nas, name)
    for key, name in enumerate(["2026/kept.jpg", "2026/b.jpg"], start=1):
        Photo.objects.create(pk=key, image=name)
    for words, answer in orphans:
        child = manage(project, *shlex.split(words), databases={"default": database()})
        assert b"".join(child.communicate(timeout=PATIENCE)).decode() == answer
        assert child.returncode == 1
    assert nas.listdir("2025") == ([], [])


def test_every_option_is_on_the_page(manage):
    """The table has each subcommand as its help writes it."""
    rows = dict(re.findall(r"^\| `(\w+) ([^`]+)` \|", PAGE, re.MULTILINE))
    for subcommand, usage in rows.items():
        child = manage({}, subcommand, "--help")
        text = child.communicate(timeout=PATIENCE)[0].decode()
        for option in re.findall(r"-[-\w]+", usage):
            assert re.search(rf"^  .*{option}\b", text, re.MULTILINE), (subcommand, option)
