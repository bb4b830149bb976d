"""docs/downloads.md tells how ranges and conditional requests are answered, and so they are.

With NETSTORAGE_SERVERS_PAGE=write these tests write its tables.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from pathlib import Path

import pytest
from django.core.files.base import ContentFile

from netstorage.downloads.byteranges import MAX_RANGES
from tests.contract.page import DOCS, WRITE, rows, write
from tests.downloads.site import Answer, Site, place
from tests.servers import fresh_location, make_storage
from tests.servers.base import Server
from tests.servers.nginx import NginxStatic

PAGE = DOCS / "downloads.md"
CHANGED = datetime(2020, 2, 29, 12, 0, 1, tzinfo=timezone.utc)
DAY = timedelta(days=1)
FILES = {"file.txt": bytes(range(100)), "empty.txt": b"", "one.txt": b"1"}

RANGES = [
    "bytes=0-",
    "bytes=0-0",
    "bytes=5-9",
    "bytes=99-99",
    "bytes=-5",
    "bytes=-100",
    "bytes=-99999999",
    "bytes=-0",
    "bytes=95-104",
    "bytes=0-99999999999999999999",
    "bytes=100-",
    "bytes=1000-1009",
    "bytes=0-0,20-29",
    "bytes=20-29,0-0",
    "bytes=0-0,-1",
    "bytes=0-0,100-",
    "bytes=100-,-0",
    "bytes=0-9,5-14",
    "bytes=0-9,0-9,0-9",
    "bytes=0-99,0-0",
    "bytes=5-9,",
    "bytes=,5-9, ,20-29",
    "bytes= 5-9",
    "bytes=5-9 , 20-29",
    "bytes=5 - 9",
    "Bytes=5-9",
    "lines=5-9",
    "bytes 5-9",
    "bytes=",
    "bytes=,",
    "bytes=-",
    "bytes=5",
    "bytes=five-nine",
    "bytes=5-2",
    "bytes=5-9,5-2",
    "bytes=0x5-0x9",
    "5-9",
]
MANY = "`Range: bytes=` and {} ranges of a byte"
CONDITIONS = [
    "If-None-Match: ETAG",
    "If-None-Match: W/ETAG",
    'If-None-Match: "other", ETAG',
    "If-None-Match: *",
    'If-None-Match: "other"',
    "If-None-Match: other",
    "If-Modified-Since: DATE",
    "If-Modified-Since: EARLIER",
    "If-Modified-Since: LATER",
    "If-Modified-Since: yesterday",
    "If-None-Match: ETAG; If-Modified-Since: EARLIER",
    'If-None-Match: "other"; If-Modified-Since: DATE',
    "If-Match: ETAG",
    "If-Match: W/ETAG",
    'If-Match: "other", ETAG',
    "If-Match: *",
    'If-Match: "other"',
    "If-Unmodified-Since: DATE",
    "If-Unmodified-Since: EARLIER",
    "If-Unmodified-Since: LATER",
    "If-Unmodified-Since: yesterday",
    "If-Match: ETAG; If-Unmodified-Since: EARLIER",
    'If-Match: "other"; If-Unmodified-Since: DATE',
    "If-Match: ETAG; If-None-Match: ETAG",
    'If-Match: "other"; If-None-Match: ETAG',
    "Range: bytes=5-9; If-Range: ETAG",
    "Range: bytes=5-9; If-Range: W/ETAG",
    'Range: bytes=5-9; If-Range: "other"',
    "Range: bytes=5-9; If-Range: DATE",
    "Range: bytes=5-9; If-Range: EARLIER",
    "Range: bytes=5-9; If-Range: LATER",
    "Range: bytes=5-9; If-Range: yesterday",
    'Range: bytes=100-; If-Range: "other"',
    "If-Range: ETAG",
    "Range: bytes=5-9; If-None-Match: ETAG",
    'Range: bytes=5-9; If-None-Match: "other"',
    'Range: bytes=100-; If-Match: "other"',
    "Range: bytes=5-9; If-Match: ETAG",
    "Range: bytes=5-9; If-Modified-Since: DATE",
]
HEADERS = {
    "200": "",
    "206": "Range: bytes=5-9",
    "206, several parts": "Range: bytes=0-0,20-29",
    "304": "If-None-Match: ETAG",
    "412": 'If-Match: "other"',
    "416": "Range: bytes=100-",
    "200 to HEAD": "HEAD",
}
TELLING = (
    "Accept-Ranges",
    "Cache-Control",
    "Content-Length",
    "Content-Range",
    "ETag",
    "Last-Modified",
)
SHORT = ["", "Range: bytes=0-", "Range: bytes=0-0", "Range: bytes=-1", "Range: bytes=1-"]


@dataclass(frozen=True)
class Case:
    """One row of a table.

    Attributes:
        title: What is in its first column.
        request: Headers with placeholders for what depends on the file.
        name: The file.
        method: GET or HEAD.
    """

    title: str
    request: str
    name: str = "file.txt"
    method: str = "GET"


def quoted(request: str) -> str:
    return f"`{request.replace('; ', '`, `')}`" if request else "nothing but GET"


TABLES = {
    "Ranges": [
        Case("no `Range`", ""),
        *(Case(quoted(f"Range: {text}"), f"Range: {text}") for text in RANGES),
        *(
            Case(
                MANY.format(count),
                f"Range: bytes={','.join(f'{2 * n}-{2 * n}' for n in range(count))}",
            )
            for count in (MAX_RANGES, MAX_RANGES + 1)
        ),
        Case("HEAD, `Range: bytes=5-9`", "Range: bytes=5-9", method="HEAD"),
        Case("HEAD, `Range: bytes=100-`", "Range: bytes=100-", method="HEAD"),
    ],
    "Conditions": [
        *(Case(quoted(text), text) for text in CONDITIONS),
        Case("HEAD, `If-None-Match: ETAG`", "If-None-Match: ETAG", method="HEAD"),
        Case('HEAD, `If-Match: "other"`', 'If-Match: "other"', method="HEAD"),
    ],
    "Headers": [
        Case(title, "" if text == "HEAD" else text, method="HEAD" if text == "HEAD" else "GET")
        for title, text in HEADERS.items()
    ],
    "Short files": [
        Case(f"{title}: {quoted(text)}", text, name)
        for name, title in (("empty.txt", "no byte"), ("one.txt", "1 byte"))
        for text in SHORT
    ],
}


def fill(folder: Path) -> None:
    """Put the files into a folder, or set back the times of those that are there."""
    for name, content in FILES.items():
        if not (folder / name).exists():
            (folder / name).write_bytes(content)
        os.utime(folder / name, (CHANGED.timestamp(), CHANGED.timestamp()))


@pytest.fixture(scope="module")
def nginx() -> Iterator[NginxStatic]:
    reason = NginxStatic.unavailable()
    if reason:
        pytest.skip(f"nginx: {reason}")
    with NginxStatic() as nginx:
        fill(nginx.root)
        yield nginx


@pytest.fixture(scope="module")
def ours(server: Server, site: Site) -> str:
    """Where the files of a storage are on the site."""
    storage = make_storage(server, location=fresh_location(server))
    for name, content in FILES.items():
        storage.save(name, ContentFile(content))
    assert server.root is not None
    fill(server.root / storage.location)
    return place(storage)


def ask(site: Site, url: str, case: Case, *, without: str = "") -> Answer:
    """Send a case's request, with what the file's own headers are."""
    told = site.ask(url + case.name).headers if "ETAG" in case.request else {}
    for_words = {
        "ETAG": told.get("ETag") or '"invented"',
        "DATE": format_datetime(CHANGED, usegmt=True),
        "EARLIER": format_datetime(CHANGED - DAY, usegmt=True),
        "LATER": format_datetime(CHANGED + DAY, usegmt=True),
    }
    text = re.sub("|".join(for_words), lambda match: for_words[match[0]], case.request)
    headers = dict(header.split(": ", 1) for header in text.split("; ") if header)
    for name in without.split():
        headers.pop(name, None)
    return site.ask(url + case.name, headers, case.method)


def summary(heading: str, answer: Answer) -> str:
    """What the table tells of an answer."""
    if heading == "Headers":
        return ", ".join(f"`{name}`" for name in TELLING if name in answer.headers) or "none"
    if answer.status != 206:
        return str(answer.status)
    told = [answer.headers["Content-Range"]]
    if told == [None]:
        told = [headers["Content-Range"] for headers, _ in answer.parts]
    if len(told) > 3:
        return f"206, {len(told)} parts"
    return "206 " + ", ".join(text.removeprefix("bytes ").partition("/")[0] for text in told)


def content_of(content_range: str, content: bytes) -> bytes:
    """What a part is by its Content-Range; there is no part of nothing."""
    first, last, size = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", content_range).groups()
    assert int(size) == len(content)
    assert int(first) <= int(last)
    return content[int(first) : int(last) + 1]


@pytest.mark.parametrize("heading", TABLES)
def test_requests_are_answered_as_the_page_tells(site, nginx, ours, heading):
    """And the page tells of no others."""
    reference, disk = Site(nginx.port), place(nginx.root)
    seen = {}
    for case in TABLES[heading]:
        answers = (
            ask(site, ours, case),
            ask(site, disk, case),
            ask(reference, "/dav/", case),
        )
        seen[case.title] = " | ".join(summary(heading, each) for each in answers)
        if WRITE:
            write(PAGE, heading, case.title, seen[case.title])
    assert list(rows(PAGE, heading).items()) == list(seen.items())


@pytest.mark.parametrize("heading", TABLES)
def test_bodies_are_what_their_headers_say(site, ours, heading):
    for case in TABLES[heading]:
        content, answer = FILES[case.name], ask(site, ours, case)
        headers = answer.headers
        if answer.status in {200, 206, 304}:
            assert headers["ETag"] == site.ask(ours + case.name, method="HEAD").headers["ETag"]
            assert re.fullmatch('"[^"]+"', headers["ETag"])
            assert headers["Last-Modified"] == format_datetime(CHANGED, usegmt=True), case
            assert "private" in headers["Cache-Control"]
        if answer.status in {200, 206, 416}:
            assert headers["Accept-Ranges"] == "bytes"
        if case.method == "HEAD" or answer.status in {304, 412, 416}:
            assert answer.body == b""
        elif answer.status == 200:
            assert answer.body == content, case
            assert headers["Content-Length"] == str(len(content))
        elif "Content-Range" in headers:
            assert answer.body == content_of(headers["Content-Range"], content), case
            assert headers["Content-Length"] == str(len(answer.body))
            assert headers["Content-Type"] == "text/plain"
        else:
            assert headers["Content-Length"] == str(len(answer.body))
            for part, body in answer.parts:
                assert part["Content-Type"] == "text/plain"
                assert body == content_of(part["Content-Range"], content), case
        if answer.status == 200:
            assert "Content-Range" not in headers
            assert headers["Content-Type"] == "text/plain"
        if answer.status == 416:
            assert headers["Content-Range"] == f"bytes */{len(content)}"


@pytest.mark.parametrize("heading", TABLES)
def test_head_tells_what_a_get_of_the_whole_would(site, ours, heading):
    """Ranges are defined for GET alone (RFC 9110, 14.2)."""
    for case in TABLES[heading]:
        whole = ask(site, ours, replace(case, method="GET"), without="Range If-Range")
        head = ask(site, ours, replace(case, method="HEAD"))
        assert head.body == b""
        assert head.status == whole.status, case
        same = {"Content-Type", "Content-Disposition", "X-Content-Type-Options", *TELLING}
        if whole.status == 412:
            same = set()  # it is about no version of the file
        assert {name: head.headers[name] for name in same} == {
            name: whole.headers[name] for name in same
        }, case


def test_a_fresh_file_has_a_weak_tag_and_gives_no_part_by_it(site, server, alone):
    """It may change again without its time showing it; that of a file of tomorrow, too."""
    tomorrow = (datetime.now(timezone.utc) + DAY).timestamp()
    os.utime(server.root / alone.location / "big.bin", (tomorrow, tomorrow))
    url = place(alone) + "big.bin"
    headers = site.ask(url, method="HEAD").headers
    assert headers["ETag"].startswith('W/"')
    for known in (headers["ETag"], headers["ETag"].removeprefix("W/"), headers["Last-Modified"]):
        assert site.ask(url, {"Range": "bytes=5-9", "If-Range": known}).status == 200
    assert site.ask(url, {"Range": "bytes=5-9"}).status == 206
    assert site.ask(url, {"If-None-Match": headers["ETag"]}).status == 304
