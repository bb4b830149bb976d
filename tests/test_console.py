"""``manage.py netstorage``: what operators type, on real servers."""

from __future__ import annotations

from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.test import override_settings

from tests.servers import fresh_location

FEW_SERVERS = True


def run(*words: str) -> str:
    """Return what the subcommand writes."""
    out = StringIO()
    call_command("netstorage", *words, stdout=out)
    return out.getvalue()


@pytest.fixture
def nas(server):
    """Make each server in turn the alias ``nas``."""
    backend = f"netstorage.{'SFTP' if server.protocol == 'sftp' else 'WebDAV'}Storage"
    options = {**server.options, "location": fresh_location(server)}
    with override_settings(STORAGES={"nas": {"BACKEND": backend, "OPTIONS": options}}):
        from django.core.files.storage import storages

        yield storages["nas"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["cleanup", "nas"], "'nas' is not of the form alias:path"),
        (["cleanup", "nass:"], "no alias 'nass'; did you mean 'nas'?"),
        (["cleanup", "nas:", "--older-than", "soon"], "'soon' is no age"),
        (["cleanup", "nas:", "--older-than", "0h"], "1:00:00 at the least"),
    ],
)
def test_what_is_typed_wrong_is_told_in_a_line(nas, words, told):
    with pytest.raises(CommandError, match=told.replace("?", r"\?")) as caught:
        run(*words)
    assert "\n" not in str(caught.value)
