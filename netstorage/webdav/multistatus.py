"""Multistatus bodies (RFC 4918, section 13), parsed while they arrive."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from urllib.parse import unquote, urlsplit
from xml.parsers import expat

from ..session import ENTRY, LONGEST_LISTING, Stat

LONGEST_TEXT = 64 * 2**10
"""Characters of one value beyond which a server is taken to be lying."""
LONGEST_RESPONSE = 2**20
"""Bytes without the end of a response beyond which a server is taken to be lying, too."""

_PROPFIND = b"""<?xml version="1.0" encoding="utf-8"?>
<propfind xmlns="DAV:"><prop><resourcetype/>%s</prop></propfind>"""
# What is asked for of a file or collection (section 15), and of many that only shall have names.
PROPERTIES = _PROPFIND % b"<getcontentlength/><getlastmodified/><creationdate/><getetag/>"
ONLY_TYPE = _PROPFIND % b""

_DAV = "DAV:|"
_TEXTS = {
    _DAV + name
    for name in ("href", "status", "getcontentlength", "getlastmodified", "creationdate", "getetag")
}


class MultistatusError(ValueError):
    """The body is no multistatus."""


@dataclass(frozen=True)
class Resource:
    """One response element.

    Attributes:
        segments: The segments of its href's path, each decoded by itself: one may hold a slash.
        stat: What its properties say.
        status: Its own HTTP status, where one is given instead of properties.
    """

    segments: tuple[str, ...]
    stat: Stat
    status: int | None


def parse_multistatus(chunks: Iterable[bytes]) -> list[Resource]:
    """Parse a body that comes in pieces.

    Raises:
        MultistatusError: It is malformed, of another kind, or has a document type, which nothing
            good comes with (entities that explode).
    """
    parser = _Parser()
    for chunk in chunks:
        parser.feed(chunk)
    return parser.close()


@dataclass
class _Response:
    href: str = ""
    status: int | None = None
    found: dict[str, str] = field(default_factory=dict)


class _Parser:
    """Builds resources out of expat's events; properties count only with a status of 200."""

    def __init__(self) -> None:
        self._expat = expat.ParserCreate(namespace_separator="|")
        self._expat.buffer_text = True
        self._expat.StartElementHandler = self._start
        self._expat.EndElementHandler = self._end
        self._expat.CharacterDataHandler = self._characters
        self._expat.StartDoctypeDeclHandler = self._doctype
        self._depth = 0
        self._text: list[str] | None = None
        self._length = 0
        self._response = _Response()
        self._properties: dict[str, str] = {}
        self._property_status: int | None = None
        self._in_propstat = False
        self._resources: list[Resource] = []
        self._since = 0
        self._listed = 0

    def feed(self, data: bytes, *, last: bool = False) -> None:
        self._since += len(data)
        try:
            self._expat.Parse(data, last)
        except MultistatusError:
            raise
        except (expat.ExpatError, LookupError, ValueError) as error:
            # LookupError and ValueError stand for encodings that are unknown or not supported.
            raise MultistatusError(f"malformed XML: {error}") from error
        if self._since > LONGEST_RESPONSE:
            # Nested, or in one piece that expat waits for the end of.
            raise MultistatusError("a response without end")

    def close(self) -> list[Resource]:
        self.feed(b"", last=True)
        return self._resources

    def _doctype(self, *args: object) -> None:
        raise MultistatusError("a document type declaration")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        if self._depth == 1 and name != _DAV + "multistatus":
            raise MultistatusError(f"a document of <{name.rpartition('|')[2][:40]}>")
        if name == _DAV + "response":
            self._response = _Response()
        elif name == _DAV + "propstat":
            self._in_propstat = True
            self._properties = {}
            self._property_status = None
        elif name == _DAV + "collection":
            self._properties["collection"] = ""
        elif name in _TEXTS:
            self._text = []
            self._length = 0

    def _characters(self, data: str) -> None:
        if self._text is not None:
            self._length += len(data)
            if self._length > LONGEST_TEXT:
                raise MultistatusError("a value without end")
            self._text.append(data)

    def _end(self, name: str) -> None:
        self._depth -= 1
        text = ""
        if name in _TEXTS:
            text = "".join(self._text or []).strip()
            self._text = None
        if name == _DAV + "href" and not self._response.href:
            self._response.href = text
        elif name == _DAV + "status":
            if self._in_propstat:
                self._property_status = _status(text)
            else:
                self._response.status = _status(text)
        elif name == _DAV + "propstat":
            self._in_propstat = False
            if self._property_status in {200, None}:
                self._response.found.update(self._properties)
        elif name == _DAV + "response":
            self._resources.append(_resource(self._response))
            self._since = 0
            self._listed += ENTRY + len(self._response.href)
            if self._listed > LONGEST_LISTING:
                raise MultistatusError("a listing without end")
        elif name in _TEXTS and text:
            self._properties[name.removeprefix(_DAV)] = text


def _resource(response: _Response) -> Resource:
    found = response.found
    is_dir = "collection" in found
    try:
        path = urlsplit(response.href).path
    except ValueError as error:
        raise MultistatusError(f"a href that is no URL: {response.href[:200]!r}") from error
    return Resource(
        segments=segments(path),
        status=response.status,
        stat=Stat(
            is_dir=is_dir,
            size=None if is_dir else length(found.get("getcontentlength")),
            mtime=http_date(found.get("getlastmodified")),
            created=_creation_date(found.get("creationdate")),
            etag=bare_etag(found.get("getetag")),
        ),
    )


def segments(path: str) -> tuple[str, ...]:
    """Split a URL's path and decode each segment, so that ``%2F`` and ``/`` stay two things."""
    return tuple(unquote(s, errors="surrogateescape") for s in path.split("/") if s)


def length(text: str | None) -> int | None:
    """Read a number of bytes; None if it is none."""
    number = int(text) if text and text.isascii() and text.isdigit() and len(text) < 20 else None
    return number if number is None or number < 2**63 else None


def http_date(text: str | None) -> float | None:
    """Read a date of HTTP (RFC 9110, section 5.6.7) as seconds since the epoch, if it is one."""
    if not text:
        return None
    try:
        return _timestamp(parsedate_to_datetime(text))
    except (ValueError, OverflowError):
        return None


def bare_etag(text: str | None) -> str | None:
    """Return an entity tag without quotes and weakness mark: servers add them now and then."""
    return text.removeprefix("W/").strip('"') or None if text else None


def _creation_date(text: str | None) -> float | None:
    """Read a date of RFC 3339, as section 15.1 wants it, or of HTTP, as some servers send it."""
    if not text:
        return None
    try:
        # Python 3.10 does not know "Z".
        return _timestamp(datetime.fromisoformat(text.upper().replace("Z", "+00:00")))
    except (ValueError, OverflowError):
        return http_date(text)


def _timestamp(date: datetime) -> float:
    """Return seconds since the epoch; OverflowError if no datetime in UTC stands for them."""
    utc = date.astimezone(timezone.utc) if date.tzinfo else date.replace(tzinfo=timezone.utc)
    return utc.timestamp()


def _status(text: str) -> int | None:
    """Read a status line: ``HTTP/1.1 200 OK``."""
    fields = text.split(None, 2)
    return length(fields[1]) if len(fields) > 1 else None
