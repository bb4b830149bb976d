"""The reference lists what there is: options, defaults, check ids, numbers, errors, loggers."""

import ast
import re
from dataclasses import fields
from pathlib import Path

import pytest

import netstorage
from netstorage import SFTPStorage, WebDAVStorage
from netstorage.limits import PoolLimits, PoolStats
from netstorage.options import COMMON_DEFAULTS, CommonOptions, PoolOptions
from netstorage.sftp import SFTPOptions
from netstorage.webdav import WebDAVOptions

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
REFERENCE = (DOCS / "reference-settings.md").read_text()

OPTION = re.compile(
    r"^### `(?P<name>\w+)`\n\n"
    r"\*Type:\* (?P<type>.+?)\. (?:\*Default:\* `(?P<default>.+?)`(?P<means>, which means .+)?\.|"
    r"(?P<required>\*Required\.\*))\n\n(?P<effect>\S.+)",
    re.MULTILINE,
)
COMMON, SFTP, WEBDAV = (
    "Options of both storages",
    "Options of SFTPStorage",
    "Options of WebDAVStorage",
)


def section(title, text=REFERENCE):
    """The text below a heading of the second level."""
    _, found, rest = text.partition(f"\n## {title}\n")
    assert found, f"there is no section {title!r}"
    return re.split(r"\n## ", rest)[0]


def options(title):
    """The options of a section: their defaults, or ... for those that have none."""
    text = section(title)
    found = list(OPTION.finditer(text))
    assert [entry["name"] for entry in found] == re.findall(r"^### `?(\w+)", text, re.MULTILINE)
    assert len({entry["name"] for entry in found}) == len(found), "an option is there twice"
    return {
        entry["name"]: ... if entry["required"] else ast.literal_eval(entry["default"])
        for entry in found
    }


def rows(text):
    """The rows of the tables in a text, each a list of its cells without backticks."""
    table = re.findall(r"^\|(.+)\|$", text, re.MULTILINE)
    return [[cell.strip(" `") for cell in row.split("|")] for row in table]


def exactly(defaults, required=None):
    """Defaults that tell True from 1 and 30 from 30.0."""
    values = {name: ... if name == required else value for name, value in defaults.items()}
    return {name: (type(value), value) for name, value in values.items()}


@pytest.mark.parametrize(
    ("title", "storage", "typed"),
    [(SFTP, SFTPStorage, SFTPOptions), (WEBDAV, WebDAVStorage, WebDAVOptions)],
)
def test_options(title, storage, typed):
    documented = options(COMMON) | options(title)
    assert exactly(documented) == exactly(storage.defaults, storage.required)
    assert documented.keys() == typed.__optional_keys__ | typed.__required_keys__


def test_common_options():
    documented = options(COMMON)
    assert exactly(documented) == exactly(COMMON_DEFAULTS)
    assert documented.keys() == CommonOptions.__optional_keys__


@pytest.mark.parametrize(("title", "storage"), [(SFTP, SFTPStorage), (WEBDAV, WebDAVStorage)])
def test_secrets(title, storage):
    """The introduction names the secrets; those that may be callables say so."""
    intro = re.search(r"Secrets \((.+?)\)", REFERENCE, re.DOTALL)[1]
    named = [set(re.findall(r"`(\w+)`", part)) for part in intro.split(";")]
    assert storage.secrets in named
    may_be_called = {
        entry["name"] for entry in OPTION.finditer(section(title)) if "callable" in entry["type"]
    }
    assert may_be_called == storage.secrets - {"cert", "headers", "proxy"}


def test_settings_names():
    text = section("Settings")
    for storage in (SFTPStorage, WebDAVStorage):
        assert f"`{storage.settings_name}`" in text


def test_pool_options():
    table = rows(section("Entries of the option `pool`"))[2:]
    documented = {name: ast.literal_eval(default) for name, _, default, _ in table}
    assert exactly(documented) == exactly(vars(PoolLimits()))
    assert [type(v).__name__ for v in documented.values()] == [kind for _, kind, _, _ in table]
    assert documented.keys() == PoolOptions.__optional_keys__


def test_check_ids():
    source = (ROOT / "netstorage" / "checks.py").read_text()
    ids = {
        f"netstorage.{number}" for number in re.findall(r'"(?:netstorage\.)?([EW]\d{3})"', source)
    }
    table = rows(section("System checks"))[2:]
    documented = {number: level for number, level, _ in table}
    assert len(documented) == len(table)
    assert documented.keys() == ids
    levels = {"E": "error", "W": "warning"}
    assert documented == {number: levels[number[11]] for number in ids}


def test_django_settings():
    """Each setting that the code reads is listed, and no other."""
    code = "".join(path.read_text() for path in _library())
    used = set(re.findall(r"\bsettings\.([A-Z][A-Z_]+)", code)) - {"STORAGES"}
    assert {row[0] for row in rows(section("Settings"))[2:]} == used


def test_loggers():
    code = "".join(path.read_text() for path in _library())
    used = set(re.findall(r'getLogger\("(netstorage.+?)"\)', code))
    assert {row[0] for row in rows(section("Loggers"))[2:]} == used


def test_pool_stats():
    table = rows(section("Numbers", (DOCS / "sessions.md").read_text()))[2:]
    assert [row[0] for row in table] == [field.name for field in fields(PoolStats)]


def test_errors():
    """errors.md defines every exception that can be imported, and draws the tree as the code."""
    text = (DOCS / "errors.md").read_text()
    exported = {
        name for name in netstorage.__all__ if name[0].isupper() and not name.endswith("Storage")
    }
    assert set(re.findall(r"^`(\w+)`\n: ", text, re.MULTILINE)) == exported
    tree = re.search(r"```text\n(.+?)```", text, re.DOTALL)[1]
    drawn = re.search(r"::\n\n(.+)\Z", netstorage.exceptions.__doc__, re.DOTALL)[1]
    assert [line.strip() for line in tree.splitlines()] == [
        line.strip() for line in drawn.splitlines() if line.strip()
    ]


def _library():
    """The library's modules, without the demo and the servers for tests."""
    folder = ROOT / "netstorage"
    return [p for p in folder.rglob("*.py") if not {"demo", "testing"} & {*p.parts}]
