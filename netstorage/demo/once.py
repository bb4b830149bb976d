"""The demo without a browser: everything a visitor can do, over HTTP, checked and timed."""

from __future__ import annotations

import hashlib
import io
import os
import secrets
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from html.parser import HTMLParser
from http.client import HTTPException
from http.cookiejar import CookieJar
from urllib.error import HTTPError
from urllib.parse import urlencode, urljoin
from urllib.request import HTTPCookieProcessor, OpenerDirector, ProxyHandler, Request, build_opener

from PIL import Image

from .servers import Server

TIMEOUT = 60.0
"""Seconds that one request may take."""
LARGE = 20 * 2**20


class BrokenError(Exception):
    """A step did not do what it should; the message says what it did."""


@dataclass(frozen=True)
class Sample:
    """A file to upload."""

    name: str
    content: bytes

    @property
    def digest(self) -> str:
        """SHA-256 of the content."""
        return hashlib.sha256(self.content).hexdigest()


@dataclass(frozen=True)
class Row:
    """A file that the page lists; its link is another one after a while."""

    server: str
    name: str
    size: int
    url: str = field(compare=False)


class Page(HTMLParser):
    """What matters of a page: its files, its complaints, and the token of its forms.

    Args:
        html: The page.
    """

    def __init__(self, html: str) -> None:
        super().__init__()
        self.rows: list[Row] = []
        self.errors: list[str] = []
        self.token = ""
        self._in_error = False
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take what an element says in its attributes."""
        at = {name: value or "" for name, value in attrs}
        if "data-name" in at:
            size = int(at["data-size"])
            self.rows.append(Row(at["data-server"], at["data-name"], size, at["data-url"]))
        elif at.get("name") == "csrfmiddlewaretoken":
            self.token = at["value"]
        elif at.get("role") == "alert":
            self._in_error = True
            self.errors.append("")

    def handle_data(self, data: str) -> None:
        """Take the text of a complaint."""
        if self._in_error:
            self.errors[-1] += data

    def handle_endtag(self, tag: str) -> None:
        """Notice the end of a complaint, which is one paragraph."""
        if tag == "p":
            self._in_error = False


class Visitor:
    """A browser without a window.

    Args:
        url: Of the site.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        # No proxy of the environment stands between us and ourselves.
        self._opener: OpenerDirector = build_opener(
            ProxyHandler({}), HTTPCookieProcessor(CookieJar())
        )

    def look(self) -> Page:
        """Load the page."""
        return self._page(Request(self.url))  # noqa: S310 - our own http URL

    def upload(self, server: Server, sample: Sample, token: str) -> Page:
        """Submit the upload form."""
        fields = {"csrfmiddlewaretoken": token, "server": server.value}
        kind, body = _multipart(fields, sample)
        return self._page(Request(self.url, body, {"Content-Type": kind}))  # noqa: S310 - as above

    def delete(self, row: Row, token: str) -> Page:
        """Press a file's button."""
        fields = {"csrfmiddlewaretoken": token, "server": row.server, "name": row.name}
        url = urljoin(self.url, "delete/")
        return self._page(Request(url, urlencode(fields).encode()))  # noqa: S310 - as above

    def download(self, row: Row) -> str:
        """Read a file to its end and return its SHA-256."""
        digest = hashlib.sha256()
        for piece in self._pieces(Request(urljoin(self.url, row.url))):  # noqa: S310 - as above
            digest.update(piece)
        return digest.hexdigest()

    def _page(self, request: Request) -> Page:
        page = Page(b"".join(self._pieces(request)).decode())
        if page.errors:
            raise BrokenError(" ".join(page.errors))
        return page

    def _pieces(self, request: Request) -> Iterator[bytes]:
        try:
            with self._opener.open(request, timeout=TIMEOUT) as response:
                while piece := response.read(2**18):
                    yield piece
        except HTTPError as error:
            with error:
                told = " ".join(Page(error.read().decode(errors="replace")).errors)
            raise BrokenError(f"HTTP {error.code} {error.reason}. {told}".rstrip()) from error
        except (OSError, HTTPException) as error:
            raise BrokenError(f"{type(error).__name__}: {error}") from error


@dataclass
class Report:
    """The table on the terminal."""

    stopped: Callable[[], bool]
    result: str = field(default="", init=False)

    def line(self, *cells: str) -> None:
        """Print a line of the table; it fits 80 columns."""
        step, server, name, size, took, result = cells
        sys.stdout.write(
            f"{step:<9} {server:<7} {name:<13} {size:>8} {took:>8}  {result}".rstrip() + "\n"
        )

    @contextmanager
    def step(self, what: str, server: str = "", name: str = "", size: str = "") -> Iterator[None]:
        """Time what happens within, and print it; what it found may be left in ``result``."""
        if self.stopped():
            raise BrokenError("Interrupted.")
        self.result = "ok"
        started = time.monotonic()
        try:
            yield
        except BrokenError:
            self.result = "FAILED"
            raise
        finally:
            self.line(what, server, name, size, _seconds(time.monotonic() - started), self.result)


def rehearse(url: str, addresses: str, took: float, stopped: Callable[[], bool]) -> int:
    """Do with the site all that can be done, and print how it went.

    Args:
        url: Of the site.
        addresses: Of the servers, to be told.
        took: Seconds that it took to start everything.
        stopped: Whether somebody wants us to end.

    Returns:
        The exit code.
    """
    sys.stdout.write(f"{addresses}\nDjango on {url}\n\n")
    report = Report(stopped)
    report.line("Step", "Server", "File", "Size", "Time", "Result")
    report.line("start", "", "", "", _seconds(took), "ok")
    started = time.monotonic()
    try:
        _walk_through(Visitor(url), report)
    except BrokenError as error:
        sys.stdout.write("\n" + textwrap.fill(f"Broken: {error}", 79) + "\n")
        return 1
    sys.stdout.write(
        f"\nAll well: every file went there and back unchanged, "
        f"in {time.monotonic() - started:.1f} s.\n"
    )
    return 0


def _walk_through(visitor: Visitor, report: Report) -> None:
    with report.step("prepare"):
        samples = list(_samples())
    for server in Server:
        for sample in samples:
            with report.step("upload", server.label, sample.name, _size(len(sample.content))):
                known = visitor.look()
                page = visitor.upload(server, sample, known.token)
                new = [row for row in page.rows if row not in known.rows]
                if [(row.server, row.size) for row in new] != [(server, len(sample.content))]:
                    raise BrokenError(f"After the upload the page lists as new: {new}")
    with report.step("list"):
        page = visitor.look()
        rows = {
            (server, sample.name): _find(page.rows, server, sample)
            for server in Server
            for sample in samples
        }
        report.result = f"{len(page.rows)} files"
    for server in Server:
        for sample in samples:
            with report.step("download", server.label, sample.name, _size(len(sample.content))):
                digest = visitor.download(rows[server, sample.name])
                if digest != sample.digest:
                    raise BrokenError(
                        f"{sample.name} came back different: its SHA-256 was {sample.digest} "
                        f"and is {digest}."
                    )
                report.result = f"same SHA-256 {digest[:8]}"
    for server in Server:
        for sample in samples:
            with report.step("delete", server.label, sample.name):
                row = rows[server, sample.name]
                if row in visitor.delete(row, page.token).rows:
                    raise BrokenError(f"{row.name} is still there.")
    with report.step("list"):
        if left := visitor.look().rows:
            raise BrokenError(f"Not deleted: {left}")
        report.result = "nothing left"


def _samples() -> Iterator[Sample]:
    """Make the files."""
    picture = io.BytesIO()
    Image.effect_mandelbrot((800, 600), (-2.1, -1.2, 0.9, 1.2), 100).save(picture, "PNG")
    yield Sample("fractal.png", picture.getvalue())
    yield Sample("Grüße.txt", "Grüße aus dem Formular! こんにちは 👋\n".encode() * 100)
    yield Sample("large.bin", os.urandom(LARGE))


def _find(rows: list[Row], server: Server, sample: Sample) -> Row:
    """Find a file that was uploaded."""
    for row in rows:
        if row.server == server and row.name.rpartition("/")[2] == sample.name:
            return row
    raise BrokenError(f"{sample.name} is not listed on the {server.label} server.")


def _multipart(fields: Mapping[str, str], sample: Sample) -> tuple[str, bytes]:
    """Encode a form as browsers do; return the content type and the body."""
    boundary = secrets.token_hex(16)
    head = "".join(
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in fields.items()
    )
    head += (
        f"--{boundary}\r\nContent-Disposition: form-data; "
        f'name="file"; filename="{sample.name}"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    )
    body = b"".join((head.encode(), sample.content, f"\r\n--{boundary}--\r\n".encode()))
    return f"multipart/form-data; boundary={boundary}", body


def _size(size: int) -> str:
    """Write a size as the page does."""
    return f"{size / 2**20:.1f} MB" if size >= 2**20 else f"{size / 2**10:.1f} KB"


def _seconds(took: float) -> str:
    return f"{took:.3f} s"
