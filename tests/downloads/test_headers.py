"""What a browser is told of a file by its name: what it is, and whether to show it."""

from __future__ import annotations

import re
from urllib.parse import quote, unquote

import pytest

from tests.contract.helpers import private_storage
from tests.downloads.site import place
from tests.servers import fresh_location

NAMES = {
    "plain.txt": 'inline; filename="plain.txt"',
    "a b.txt": 'inline; filename="a b.txt"',
    "semi;colon=1.txt": 'inline; filename="semi;colon=1.txt"',
    "100%25.txt": 'inline; filename="100%25.txt"',
    'say "hi".txt': 'inline; filename="say \\"hi\\".txt"',
    "Grüße 🎉.txt": "inline; filename*=utf-8''Gr%C3%BC%C3%9Fe%20%F0%9F%8E%89.txt",
    'it\'s; "ü" 5%.txt': "inline; filename*=utf-8''it%27s%3B%20%22%C3%BC%22%205%25.txt",
    "line\r\nX-Evil: 1.txt": 'inline; filename="line__X-Evil: 1.txt"',
    "tab\tdel\x7f.txt": 'inline; filename="tab_del_.txt"',
    "n" * 251 + ".txt": f'inline; filename="{"n" * 251}.txt"',
    "deep/er.txt": 'inline; filename="er.txt"',
}
# None: it depends on the Python.
TYPES = {
    "a.txt": ("text/plain", True),
    "a.TXT": ("text/plain", True),
    "a.png": ("image/png", True),
    "a.JPG": ("image/jpeg", True),
    "a.gif": ("image/gif", True),
    "a.pdf": ("application/pdf", True),
    "a.mp3": ("audio/mpeg", True),
    "a.mp4": ("video/mp4", True),
    "a.html": ("text/html", False),
    "a.HTM": ("text/html", False),
    "a.svg": ("image/svg+xml", False),
    "a.xhtml": ("application/xhtml+xml", False),
    "a.xml": (None, False),
    "a.js": (None, False),
    "a.css": ("text/css", False),
    "a.csv": ("text/csv", False),
    "a.zip": ("application/zip", False),
    "a.gz": ("application/gzip", False),
    "a.txt.gz": ("application/gzip", False),
    "a.tar.GZ": ("application/gzip", False),
    "a.html.bz2": ("application/x-bzip", False),
    "a.svgz": ("application/gzip", False),
    "a.txt.xz": ("application/x-xz", False),
    "a.txt.br": ("application/x-brotli", False),
    "a.txt.Z": ("application/x-compress", False),
    "noextension": ("application/octet-stream", False),
    "a.unheardof": ("application/octet-stream", False),
    ".hidden": ("application/octet-stream", False),
    "dot.": ("application/octet-stream", False),
}


@pytest.fixture
def shelf(site, running_servers, request):
    """Saves a file under a name as it is, and asks for it."""
    server = running_servers.get("embedded-sftp", request)
    storage = private_storage(server, location=fresh_location(server))

    def ask(name: str):
        with storage.open(name, "wb") as file:
            file.write(b"content")
        got = site.ask(place(storage) + quote(name))
        head = site.ask(place(storage) + quote(name), method="HEAD")
        assert (got.status, got.body, head.status) == (200, b"content", 200)
        for header in ("Content-Type", "Content-Disposition", "X-Content-Type-Options"):
            assert got.headers.get_all(header) == head.headers.get_all(header)
        return got.headers

    yield ask
    storage.pool.close()


@pytest.mark.parametrize("name", NAMES)
def test_the_name_is_told_and_nothing_else(shelf, name):
    headers = shelf(name)
    assert headers.get_all("Content-Disposition") == [NAMES[name]]
    assert "X-Evil" not in headers
    encoded = re.search(r"filename\*=utf-8''(\S+)$", NAMES[name])
    if encoded:
        assert unquote(encoded[1]) == name


@pytest.mark.parametrize("name", TYPES)
def test_only_what_cannot_act_is_shown(shelf, name):
    headers = shelf(name)
    content_type, shown = TYPES[name]
    assert content_type is None or headers["Content-Type"] == content_type
    assert headers["Content-Disposition"].partition(";")[0] == ("inline" if shown else "attachment")
    assert headers["X-Content-Type-Options"] == "nosniff"
    # A browser would undo it, and save another file than the one asked for.
    assert "Content-Encoding" not in headers
