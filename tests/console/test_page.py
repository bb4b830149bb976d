"""docs/howto-console.md shows what the commands do: each line is typed, and its answer compared."""

from __future__ import annotations

import re
import shlex

import pytest
from django.conf import settings

from tests.console.conftest import PATIENCE, ROOT

FEW_SERVERS = True

PAGE = (ROOT / "docs/howto-console.md").read_text()


@pytest.fixture
def project(nas, tmp_path, monkeypatch):
    """What the page has: files, and two aliases."""
    (tmp_path / "scans/2026").mkdir(parents=True)
    (tmp_path / "scans/2026/1.tif").write_bytes(bytes(2_500_000))
    (tmp_path / "scans/index.txt").write_text("1.tif\n")
    return {"nas": settings.STORAGES["nas"], "default": settings.STORAGES["disk"]}


def test_every_command_says_what_the_page_shows(manage, project, tmp_path):
    (block,) = re.findall(r"^```console\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    commands = re.findall(
        r"^\$ \./manage\.py netstorage (.*)\n((?:[^$].*\n)*)", block, re.MULTILINE
    )
    assert len(commands) == block.count("$ ") > 10
    for words, answer in commands:
        child = manage(project, *shlex.split(words), cwd=tmp_path)
        told = b"".join(child.communicate(timeout=PATIENCE)).decode()
        assert told == answer, words
        assert child.returncode == ("CommandError" in answer)


def test_every_option_is_on_the_page(manage):
    """The table has each subcommand as its help writes it."""
    rows = dict(re.findall(r"^\| `(\w+) ([^`]+)` \|", PAGE, re.MULTILINE))
    for subcommand, usage in rows.items():
        child = manage({}, subcommand, "--help")
        text = child.communicate(timeout=PATIENCE)[0].decode()
        for option in re.findall(r"-[-\w]+", usage):
            assert re.search(rf"^  .*{option}\b", text, re.MULTILINE), (subcommand, option)
