"""Multistatus bodies: the same result however they arrive, and never another error than ours."""

from __future__ import annotations

import itertools
import tracemalloc
from collections.abc import Iterator
from datetime import datetime, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netstorage.session import ENTRY, Stat
from netstorage.webdav.multistatus import (
    LONGEST_RESPONSE,
    LONGEST_TEXT,
    MultistatusError,
    Resource,
    bare_etag,
    http_date,
    length,
    parse_multistatus,
    segments,
)

NOON = datetime(2026, 11, 22, 12, 0, tzinfo=timezone.utc).timestamp()


def document(*responses: str) -> bytes:
    return (
        '<?xml version="1.0" encoding="utf-8"?>'
        f'<D:multistatus xmlns:D="DAV:">{"".join(responses)}</D:multistatus>'
    ).encode()


def response(href: str, *properties: str, status: str = "HTTP/1.1 200 OK") -> str:
    return f"<D:response><D:href>{href}</D:href>{propstat(*properties, status=status)}</D:response>"


def propstat(*properties: str, status: str = "HTTP/1.1 200 OK") -> str:
    status = f"<D:status>{status}</D:status>" if status else ""
    return f"<D:propstat><D:prop>{''.join(properties)}</D:prop>{status}</D:propstat>"


def stat_of(*properties: str, status: str = "HTTP/1.1 200 OK") -> Stat:
    [resource] = parse_multistatus([document(response("/f", *properties, status=status))])
    return resource.stat


COLLECTION = "<D:resourcetype><D:collection/></D:resourcetype>"
TYPICAL = document(
    response("/dav/", COLLECTION, "<D:getetag>&quot;dir&quot;</D:getetag>"),
    response(
        "/dav/gr%c3%BC%C3%9fe%20%26%2b.txt",
        "<D:resourcetype/>",
        "<D:getcontentlength>12</D:getcontentlength>",
        "<D:getlastmodified>Sun, 22 Nov 2026 12:00:00 GMT</D:getlastmodified>",
        "<D:creationdate>2026-11-22T12:00:00Z</D:creationdate>",
        "<D:getetag>W/&quot;a&amp;b&quot;</D:getetag>",
    ),
    "<D:response><D:href>/dav/gone</D:href><D:status>HTTP/1.1 404 Gone</D:status></D:response>",
)
EXPECTED = [
    Resource(("dav",), Stat(is_dir=True, etag="dir"), None),
    Resource(
        ("dav", "grüße &+.txt"),
        Stat(size=12, mtime=NOON, created=NOON, etag="a&b"),
        None,
    ),
    Resource(("dav", "gone"), Stat(), 404),
]


def test_a_typical_answer():
    assert parse_multistatus([TYPICAL]) == EXPECTED


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_pieces_of_any_size(size):
    pieces = [TYPICAL[i : i + size] for i in range(0, len(TYPICAL), size)]
    assert parse_multistatus(pieces) == EXPECTED


@given(st.lists(st.integers(0, len(TYPICAL)), max_size=20))
def test_pieces_cut_anywhere(cuts):
    cuts = [0, *sorted(cuts), len(TYPICAL)]
    pieces = [TYPICAL[a:b] for a, b in itertools.pairwise(cuts)]
    assert parse_multistatus(pieces) == EXPECTED


@given(st.lists(st.binary(max_size=200), max_size=5))
def test_garbage_is_refused_as_what_it_is(pieces):
    with pytest.raises(MultistatusError):
        parse_multistatus(pieces)


@given(st.data())
def test_a_damaged_answer_is_read_or_refused(data):
    damaged = bytearray(TYPICAL)
    for _ in range(data.draw(st.integers(1, 5))):
        start = data.draw(st.integers(0, len(damaged)))
        stop = data.draw(st.integers(start, min(start + 20, len(damaged))))
        damaged[start:stop] = data.draw(st.binary(max_size=20))
    try:
        resources = parse_multistatus([bytes(damaged)])
    except MultistatusError:
        return
    assert all(isinstance(resource, Resource) for resource in resources)


NAMES = ["href", "status", "propstat", "response", "prop", "resourcetype", "collection"]
NAMES += ["getcontentlength", "getlastmodified", "creationdate", "getetag", "x"]
TEXTS = st.sampled_from(["", "/a/b", "HTTP/1.1 200 OK", "HTTP/1.1 404", "12", " "])


@st.composite
def elements(draw: st.DrawFn, depth: int = 3) -> str:
    """Elements that belong into a multistatus, in places where they do not."""
    inside = draw(TEXTS)
    if depth:
        inside += "".join(draw(st.lists(elements(depth - 1), max_size=3)))
    name = draw(st.sampled_from(NAMES))
    return f"<D:{name}>{inside}</D:{name}>"


@given(st.lists(elements(), max_size=4))
def test_elements_in_any_order_are_read_or_refused(parts):
    try:
        resources = parse_multistatus([document(*parts)])
    except MultistatusError:
        return
    assert all(isinstance(resource.stat, Stat) for resource in resources)


@given(st.text(st.characters(blacklist_categories=["Cs", "Cc"], blacklist_characters="<&>")))
def test_any_value_anywhere(text):
    """A value that makes no sense is as if it were not there."""
    [resource] = parse_multistatus(
        [
            document(
                response(
                    "/f",
                    f"<D:getcontentlength>{text}</D:getcontentlength>",
                    f"<D:getlastmodified>{text}</D:getlastmodified>",
                    f"<D:creationdate>{text}</D:creationdate>",
                    f"<D:getetag>{text}</D:getetag>",
                )
            )
        ]
    )
    assert resource.stat.size is None or resource.stat.size >= 0
    for status in (text, f"HTTP/1.1 {text}"):
        parse_multistatus([document(response("/f", status=status))])


@given(st.text(st.characters(blacklist_categories=["Cs", "Cc"], blacklist_characters="<&>")))
def test_any_href(text):
    try:
        [resource] = parse_multistatus([document(response(text, "<D:resourcetype/>"))])
    except MultistatusError as error:
        assert "href" in str(error)
    else:
        assert all(resource.segments)


# Values


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("12", 12),
        ("9223372036854775807", 2**63 - 1),
        (" 12\n", 12),
        ("", None),
        ("-1", None),
        ("+1", None),
        ("1e3", None),
        ("1_000", None),
        ("0x10", None),
        ("12.0", None),
        ("¹²", None),
        ("١٢", None),
        ("9" * 5000, None),
        ("unknown", None),
    ],
)
def test_sizes(text, size):
    assert stat_of(f"<D:getcontentlength>{text}</D:getcontentlength>").size == size


def test_a_collection_has_no_size():
    """Servers tell the size of the directory's own block, or 0."""
    stat = stat_of(COLLECTION, "<D:getcontentlength>4096</D:getcontentlength>")
    assert stat.is_dir
    assert stat.size is None


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("Sun, 22 Nov 2026 12:00:00 GMT", NOON),
        ("Sun, 22 Nov 2026 13:00:00 +0100", NOON),
        ("Sun, 22 Nov 2026 12:00:00 -0000", NOON),
        ("Sun, 22 Nov 2026 12:00:00", NOON),
        ("Sunday, 22-Nov-26 12:00:00 GMT", NOON),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
        ("Fri, 31 Dec 9999 23:59:59 -2359", None),
        ("Sun, 99 Nov 2026 12:00:00 GMT", None),
        ("Sun, 22 Nov 2026 12:00:00 +9999", None),
        ("Sun, 22 Nov 99999999999 12:00:00 GMT", None),
        ("yesterday", None),
        ("", None),
        (",", None),
        (" ", None),
        (None, None),
    ],
)
def test_dates_of_http(text, time):
    assert http_date(text) == time


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("2026-11-22T12:00:00Z", NOON),
        ("2026-11-22t12:00:00z", NOON),
        ("2026-11-22T13:00:00+01:00", NOON),
        ("2026-11-22T12:00:00", NOON),
        ("Sun, 22 Nov 2026 12:00:00 GMT", NOON),
        ("1970-01-01T00:00:00Z", 0),
        ("0001-01-01T00:00:00+23:59", None),
        ("2026-13-22T12:00:00Z", None),
        ("soon", None),
    ],
)
def test_dates_of_creation(text, time):
    assert stat_of(f"<D:creationdate>{text}</D:creationdate>").created == time


@pytest.mark.parametrize(
    ("text", "etag"),
    [
        ('"abc"', "abc"),
        ('W/"abc"', "abc"),
        ("abc", "abc"),
        ('"a b<c>"', "a b<c>"),
        ('""', None),
        ("", None),
        (None, None),
    ],
)
def test_entity_tags(text, etag):
    """WsgiDAV leaves the quotes out, Apache marks tags of the last second as weak."""
    assert bare_etag(text) == etag


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/dav/a", ("dav", "a")),
        ("/dav/a/", ("dav", "a")),
        ("//dav//a", ("dav", "a")),
        ("/d/%c3%a9", ("d", "é")),
        ("/d/%C3%A9", ("d", "é")),
        ("/d/é", ("d", "é")),
        ("/d/a%2Fb", ("d", "a/b")),
        ("/d/a%2525", ("d", "a%25")),
        ("/d/a+b%2Bc", ("d", "a+b+c")),
        ("/d/100%", ("d", "100%")),
        ("/d/%ff", ("d", "\udcff")),
        ("/", ()),
        ("", ()),
    ],
)
def test_paths_are_decoded_segment_by_segment(path, expected):
    assert segments(path) == expected


@pytest.mark.parametrize(
    "href",
    [
        "/dav/a%20b/",
        "http://127.0.0.1:8080/dav/a%20b/",
        "https://other.example.com/dav/a%20b",
        "//other.example.com/dav/a%20b",
        "\n  /dav/a%20b  \n",
    ],
)
def test_hrefs_are_paths_or_urls(href):
    [resource] = parse_multistatus([document(response(href))])
    assert resource.segments == ("dav", "a b")


def test_a_href_that_is_no_url():
    with pytest.raises(MultistatusError, match="no URL: 'http://\\[broken'"):
        parse_multistatus([document(response("http://[broken"))])


def test_a_length_of_a_header():
    assert length("12") == 12
    assert length(None) is None


# Status


def test_properties_of_another_status_do_not_count():
    """WEBDAV.md: webdav4 takes a value inside a 404 propstat for the file's."""
    [resource] = parse_multistatus(
        [
            document(
                "<D:response><D:href>/f</D:href>"
                + propstat(
                    "<D:getcontentlength>99</D:getcontentlength>",
                    COLLECTION,
                    status="HTTP/1.1 404 Not Found",
                )
                + propstat("<D:getetag>e</D:getetag>")
                + propstat("<D:getetag>wrong</D:getetag>", status="HTTP/1.1 403 Forbidden")
                + "</D:response>"
            )
        ]
    )
    assert resource.stat == Stat(etag="e")
    assert resource.status is None


@pytest.mark.parametrize(
    ("status", "counts"),
    [
        ("HTTP/1.1 200 OK", True),
        ("HTTP/1.1 200", True),
        ("HTTP/2 200", True),
        ("", True),
        ("HTTP/1.1 404 Not Found", False),
        ("HTTP/1.1 ² OK", True),
        ("HTTP/1.1 " + "9" * 5000, True),
        ("HTTP/1.1", True),
        ("nonsense here", True),
    ],
)
def test_status_lines(status, counts):
    """What is no status line is as if it were not there."""
    stat = stat_of("<D:getcontentlength>5</D:getcontentlength>", status=status)
    assert stat.size == (5 if counts else None)


def test_a_response_s_own_status():
    text = "<D:response><D:href>/f</D:href><D:status>HTTP/1.1 423 Locked</D:status></D:response>"
    assert parse_multistatus([document(text)]) == [Resource(("f",), Stat(), 423)]


def test_one_response_does_not_colour_the_next():
    first, second = parse_multistatus(
        [document(response("/a", COLLECTION, "<D:getetag>e</D:getetag>"), response("/b"))]
    )
    assert first.stat == Stat(is_dir=True, etag="e")
    assert second == Resource(("b",), Stat(), None)


def test_no_response_at_all():
    assert parse_multistatus([document()]) == []


def test_other_namespaces_and_prefixes():
    text = b"""<?xml version="1.0"?><multistatus xmlns="DAV:" xmlns:o="urn:other"><response>
        <href>/f</href><propstat><prop><o:getcontentlength>1</o:getcontentlength>
        <getcontentlength>2</getcontentlength><o:collection/></prop>
        <status>HTTP/1.1 200 OK</status></propstat></response></multistatus>"""
    assert parse_multistatus([text]) == [Resource(("f",), Stat(size=2), None)]


# What is no multistatus


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "malformed XML: no element found"),
        (b"<html><body>Welcome</body></html>", "a document of <html>"),
        (b"<!DOCTYPE html><html></html>", "a document type declaration"),
        (b'{"error": "json"}', "malformed XML"),
        (TYPICAL[:-20], "malformed XML"),
        (TYPICAL + b"<more/>", "malformed XML: junk after document element"),
        (TYPICAL.replace(b"</D:response>", b"", 1), "malformed XML: mismatched tag"),
        (TYPICAL.replace(b'xmlns:D="DAV:"', b""), "malformed XML: unbound prefix"),
        (TYPICAL.replace(b"%c3", b"\xff"), "malformed XML: not well-formed"),
        (b'<multistatus xmlns="urn:other"/>', "a document of <multistatus>"),
        (b'<?xml version="1.0" encoding="klingon"?>' + TYPICAL[38:], "malformed XML"),
        (b'<?xml version="1.0" encoding="utf-7"?>' + TYPICAL[38:], "malformed XML"),
        (b'<?xml version="1.0" encoding="rot13"?>' + TYPICAL[38:], "malformed XML"),
        (b"\x1f\x8b\x08\x00" * 20, "malformed XML"),
    ],
)
def test_what_is_none_is_refused(body, message):
    with pytest.raises(MultistatusError, match=message):
        parse_multistatus([body])


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "iso-8859-1", "windows-1252"])
def test_encodings(encoding):
    text = document(response("/é")).decode().replace("utf-8", encoding)
    assert parse_multistatus([text.encode(encoding)]) == [Resource(("é",), Stat(), None)]


BOMB = b"""<?xml version="1.0"?><!DOCTYPE m [<!ENTITY a "aaaaaaaaaa">%s]>
<D:multistatus xmlns:D="DAV:"><D:response><D:href>&z;</D:href></D:response></D:multistatus>""" % (
    b"".join(
        b'<!ENTITY %c "%s">' % (new, b"&%c;" % old * 10)
        for old, new in zip(b"abcdefgh", b"bcdefghz", strict=True)
    )
)


@pytest.mark.parametrize(
    "body",
    [
        BOMB,
        b'<!DOCTYPE m SYSTEM "http://127.0.0.1:9/x.dtd">' + TYPICAL[38:],
        b'<!DOCTYPE m [<!ENTITY x SYSTEM "file:///etc/passwd">]>' + TYPICAL[38:],
        b"<!DOCTYPE multistatus>" + TYPICAL[38:],
    ],
    ids=["bomb", "external", "file", "empty"],
)
def test_no_document_type_is_looked_at(body):
    """Not even the first entity is read: nothing explodes, nothing is fetched."""
    arrived = 0

    def pieces() -> Iterator[bytes]:
        nonlocal arrived
        for start in range(0, len(body), 8):
            arrived += 1
            yield body[start : start + 8]

    with pytest.raises(MultistatusError, match="document type"):
        parse_multistatus(pieces())
    assert arrived * 8 < len(body)


def test_a_value_without_end():
    def pieces() -> Iterator[bytes]:
        yield b'<D:multistatus xmlns:D="DAV:"><D:response><D:href>'
        while True:
            yield b"a" * 1000

    with pytest.raises(MultistatusError, match="a value without end"):
        parse_multistatus(pieces())


@pytest.mark.parametrize(
    "piece",
    [
        b"<x>",
        b"<!-- ",
        b'<x a="',
        b"<?x ",
        b"<x/>",
        b" ",
        b"<D:propstat></D:propstat>",
        b"<D:prop>",
    ],
    ids=["deep", "comment", "attribute", "instruction", "flat", "space", "propstats", "nested"],
)
@pytest.mark.parametrize("where", ["", "<D:response>"], ids=["outside", "inside"])
def test_a_response_without_end(piece, where):
    """Whatever goes on: expat keeps what is open, and waits for the end of a token."""
    arrived = 0

    def pieces() -> Iterator[bytes]:
        nonlocal arrived
        yield f'<D:multistatus xmlns:D="DAV:">{where}'.encode() + piece
        filler = piece if piece[-1:] == b">" or piece == b" " else b"a" * 9
        chunk = filler * (2**14 // len(filler))
        while True:
            arrived += len(chunk)
            yield chunk

    tracemalloc.start()
    try:
        with pytest.raises(MultistatusError, match="a response without end"):
            parse_multistatus(pieces())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert arrived < 2 * LONGEST_RESPONSE
    assert peak < 2**26


def test_a_listing_without_end(monkeypatch):
    monkeypatch.setattr("netstorage.webdav.multistatus.LONGEST_LISTING", 2**20)
    numbers = itertools.count()

    def pieces() -> Iterator[bytes]:
        yield b'<D:multistatus xmlns:D="DAV:">'
        while True:
            yield response(f"/{next(numbers):031}").encode()

    with pytest.raises(MultistatusError, match="a listing without end"):
        parse_multistatus(pieces())
    assert next(numbers) == 2**20 // (ENTRY + 32) + 1


def test_a_long_value_is_read():
    href = "/" + "a" * (LONGEST_TEXT - 1)
    [resource] = parse_multistatus([document(response(href))])
    assert resource.segments == (href[1:],)


def test_deep_nesting_is_only_deep():
    depth = 10_000
    parse_multistatus([document("<D:x>" * depth + "</D:x>" * depth)])


def test_memory_grows_with_the_result_alone():
    """4,000 entries of 400 bytes: what arrives is let go of at once."""

    def pieces() -> Iterator[bytes]:
        yield b'<D:multistatus xmlns:D="DAV:">'
        for number in range(4_000):
            yield response(
                f"/dav/{number:06d}.txt",
                "<D:resourcetype/>",
                f"<D:getcontentlength>{number}</D:getcontentlength>",
                "<D:getlastmodified>Sun, 22 Nov 2026 12:00:00 GMT</D:getlastmodified>",
                "<D:creationdate>2026-11-22T12:00:00Z</D:creationdate>",
                f"<D:getetag>&quot;{number:x}&quot;</D:getetag>",
            ).encode()
        yield b"</D:multistatus>"

    tracemalloc.start()
    try:
        resources = parse_multistatus(pieces())
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(resources) == 4_000
    assert resources[-1].stat.size == 3_999
    assert peak - held < 2**17
