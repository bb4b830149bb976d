"""The session's verbs, spoken in HTTP requests: RFC 4918 (WebDAV) and RFC 9110 (HTTP)."""

from __future__ import annotations

import errno
import posixpath
import re
import secrets
from collections.abc import Iterable
from typing import TYPE_CHECKING, BinaryIO

import httpx
from webdav4.client import Client

from ..exceptions import ConnectionLost, ProtocolError
from ..session import Entry, Session, Sink, Stat
from .http import ERRNO, HTTP, Body, leads_to_slash, quote_path
from .multistatus import (
    PROPERTIES,
    MultistatusError,
    Resource,
    bare_etag,
    http_date,
    length,
    parse_multistatus,
    segments,
)

if TYPE_CHECKING:
    pass

LOOK_FIRST = 2**20
"""Bytes from which on asking for the directory costs less than sending the body in vain."""

CUTTING = frozenset("?;")
CONTROL = frozenset(map(chr, [*range(32), 127]))


class WebDAVSession(Session):
    """One HTTP connection to a WebDAV server.

    The connection behind it may be renewed by the HTTP client at any time; what the session adds is
    that it proved to be a WebDAV server's, and what it learned of that server.

    Args:
        client: The client; its base URL's path is quoted once more than the URL's (see endpoint).
        url: URL of the server's root, with a slash at the end.
        server: The server's name, for messages.
        timeout: Seconds of silence after which the server is given up, for messages.
    """

    def __init__(self, client: Client, url: httpx.URL, server: str, timeout: float) -> None:
        self._http = HTTP(client, url, server, timeout)
        self._url = url
        self._server = server
        self._keeps_names: bool | None = None
        self._lists_hidden: bool | None = None
        root = segments(url.raw_path.decode("ascii").partition("?")[0])
        self._root = root
        self._href_root = root
        self._destinations: list[str] = []

    # The connection

    def start(self) -> None:
        """Ask for the root: whether it is there, whether we may, whether this is WebDAV.

        Raises:
            OSError: It is not, or we may not.
        """
        response, resources = self._ask_properties("", "0", slash=True)
        if response.status_code == 207:
            root = _itself(resources, "")
            if not root.stat.is_dir:
                raise NotADirectoryError(errno.ENOTDIR, "is a file", "")
            self._href_root = root.segments
        elif response.status_code in {405, 501}:
            # nginx without its dav_ext module: all but listings works. Or Apache's root holds an
            # index.html, which is then asked in its place; a missing name tells them apart.
            response, _ = self._ask_properties(_temporary(""), "0", slash=False)
            self._http.can_propfind = response.status_code not in {405, 501}
        else:
            raise self._http.refusal(response, "")
        self._destinations = self._possible_destinations()

    def is_alive(self) -> bool:
        """Tell whether the session was not closed: the HTTP client renews lost connections."""
        return not self._http.closed

    def ping(self) -> None:
        """Do nothing: a connection that idled for long is not used again by the HTTP client."""

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def abandon(self) -> None:
        """Close this process's end of the connection, and nothing else."""
        self._http.abandon()

    # Looking

    def stat(self, path: str, *, follow: bool = True) -> Stat:
        """Describe a file or collection: one request. WebDAV knows no links."""
        if not self._http.can_propfind:
            return self._head(path)
        return _itself(self._propfind(path, "0"), path).stat

    def _propfind(self, path: str, depth: str, *, slash: bool = False) -> list[Resource]:
        response, resources = self._ask_properties(path, depth, slash=slash)
        if response.status_code == 207:
            return resources
        if not slash and leads_to_slash(response):
            try:
                return self._propfind(path, depth, slash=True)
            except OSError as error:
                if depth != "0" or error.errno != errno.ENOTSUP:
                    raise
                # Apache asks an index.html in the place of the collection that holds it.
                return [Resource((), Stat(is_dir=True), None)]
        if response.status_code in {400, 403}:
            # Below a file Apache and lighttpd do not say 404.
            self._raise_if_below_a_file(path)
        raise self._http.refusal(response, path)

    def _ask_properties(
        self, path: str, depth: str, *, slash: bool
    ) -> tuple[httpx.Response, list[Resource]]:
        # lighttpd refuses a body without a type.
        headers = {"Depth": depth, "Content-Type": "application/xml; charset=utf-8"}
        with self._http.stream(
            "PROPFIND", path, headers, slash=slash, content=PROPERTIES
        ) as response:
            if response.status_code != 207:
                return response, []
            try:
                return response, parse_multistatus(response.iter_bytes())
            except MultistatusError as error:
                raise ProtocolError(
                    f"{self._server} broke the WebDAV protocol: its answer to PROPFIND is {error}"
                ) from error

    def _raise_if_below_a_file(self, path: str) -> None:
        parent = posixpath.dirname(path)
        if parent and not self.stat(parent).is_dir:
            raise FileNotFoundError(errno.ENOENT, f"{parent} is a file", path)

    def _head(self, path: str) -> Stat:
        response = self._http.request("HEAD", path)
        if leads_to_slash(response):
            return Stat(is_dir=True)
        if response.status_code != 200:
            raise self._http.refusal(response, path)
        # Without Content-Length the length is not 0 but unknown.
        return _stat_of(response, length(response.headers.get("content-length")))

    def listdir(self, path: str) -> Iterable[Entry]:
        """Read a collection: one request."""
        if not self._http.can_propfind:
            raise OSError(
                errno.ENOTSUP,
                "the server does not answer PROPFIND, so it cannot list (nginx: its dav_ext module "
                "adds it)",
                path,
            )
        try:
            resources = self._propfind(path, "1", slash=True)
        except OSError as error:
            # Apache says 400 and lighttpd 403 to a slash behind a file's name.
            if error.errno not in {errno.EINVAL, errno.EACCES} or self.stat(path).is_dir:
                raise
            raise NotADirectoryError(errno.ENOTDIR, "is not a collection", path) from error
        # A proxy may have changed the prefix: the collection itself is what all others lie below.
        itself = _itself(resources, path).segments
        entries = []
        for resource in resources:
            if resource.status in {404, 410}:
                continue
            *parent, name = resource.segments or ("",)
            if tuple(parent) == itself and name not in {"", ".", ".."} and "/" not in name:
                entries.append(Entry(name, resource.stat.is_dir))
            elif resource.segments == itself and not resource.stat.is_dir:
                raise NotADirectoryError(errno.ENOTDIR, "is not a collection", path)
        return entries

    # Reading

    def read(self, path: str, start: int, stop: int | None, sink: Sink) -> Stat:
        """GET a range: one request."""
        if stop is not None and stop <= start:
            return self.stat(path)
        headers = {}
        if start or stop is not None:
            headers["Range"] = f"bytes={start}-{'' if stop is None else stop - 1}"
        with self._http.stream("GET", path, headers) as response:
            if response.status_code in {200, 206}:
                return self._receive(response, start, stop, sink)
        if response.status_code == 416:
            return _stat_of(response, self._content_range(response)[1])
        if leads_to_slash(response):
            raise IsADirectoryError(errno.EISDIR, "is a collection", path)
        if response.status_code in {400, 403, 405} and self._http.can_propfind:
            if self.stat(path).is_dir:
                raise IsADirectoryError(errno.EISDIR, "is a collection", path)
            self._raise_if_below_a_file(path)
        raise self._http.refusal(response, path)

    def _receive(self, response: httpx.Response, start: int, stop: int | None, sink: Sink) -> Stat:
        """Give the body of a 200 or 206 to ``sink``, and see that it is what was asked for."""
        if response.headers.get("content-encoding", "identity") != "identity":
            raise ProtocolError(f"{self._server} encoded a file though asked not to")
        if response.status_code == 206:
            first, total = self._content_range(response)
            if first != start:
                raise ProtocolError(f"{self._server} answered another range than asked for")
        else:
            # Such a server ignores ranges: this is the whole, not the range.
            first, stop = 0, None
            total = length(response.headers.get("content-length"))
        offset = first
        for chunk in response.iter_raw():
            sink(offset, memoryview(chunk))
            offset += len(chunk)
        if total is not None and offset < (total if stop is None else min(stop, total)):
            raise ConnectionLost(f"{self._server} sent only {offset - first} bytes of its answer")
        return _stat_of(response, offset if total is None and stop is None else total)

    def _content_range(self, response: httpx.Response) -> tuple[int, int | None]:
        """Read Content-Range (RFC 9110, 14.4): where it starts and the whole's length."""
        text = response.headers.get("content-range", "")
        match = re.fullmatch(r"bytes (?:(\d{1,18})-\d{1,18}|\*)/(\d{1,18}|\*)", text)
        if match is None:
            if response.status_code == 416:
                return 0, None
            raise ProtocolError(f"{self._server} sent a part without saying which: {text[:80]!r}")
        return int(match[1] or 0), length(match[2])

    # Writing

    def write(
        self, path: str, source: BinaryIO, size: int, mode: int | None, directory_mode: int | None
    ) -> None:
        """PUT with Content-Length, then compare the length that the server has."""
        try:
            self._put(path, source, size)
        except FileNotFoundError:
            self.makedirs(posixpath.dirname(path))
            self._put(path, source, size)

    def _put(self, path: str, source: BinaryIO, size: int) -> None:
        _refuse_control_characters(path)
        parent = posixpath.dirname(path)
        if size > LOOK_FIRST and parent:
            self._require_directory(parent)
        body = Body(source, size)
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
        response = self._http.request("PUT", path, headers, content=body)
        # 400, 403, 404, 409 and 500 stand for a missing directory, and for other things.
        if response.status_code in {400, 403, 404, 409, 500} and parent:
            self._require_directory(parent)
            if size <= LOOK_FIRST:
                # Somebody else may have made it meanwhile.
                response = self._http.request("PUT", path, headers, content=body)
        if response.status_code not in {200, 201, 204}:
            raise self._http.refusal(response, path)
        there = self.stat(path)
        if there.size not in {size, None}:
            raise OSError(
                errno.EIO, f"the server holds {there.size} of {size} bytes that were sent", path
            )

    def _require_directory(self, path: str) -> None:
        if not self.stat(path).is_dir:
            raise FileExistsError(errno.EEXIST, f"{path} exists and is not a directory.", path)

    def makedirs(self, path: str) -> None:
        """MKCOL, and what is missing above it first."""
        if not path:
            return
        response = self._http.request("MKCOL", path, slash=True)
        # What is there already answers 405, on some servers 301; Go's says 201 to both, and 405
        # whatever went wrong.
        if response.status_code in {200, 201, 204}:
            return
        if response.status_code not in {301, 400, 403, 404, 405, 409, 500}:
            raise self._http.refusal(response, path)
        try:
            self._require_directory(path)
        except FileNotFoundError as error:
            parent = posixpath.dirname(path)
            if not parent:
                raise self._http.refusal(response, path) from error
        else:
            return
        self.makedirs(parent)
        again = self._http.request("MKCOL", path, slash=True)
        if again.status_code in {200, 201, 204}:
            return
        try:
            self._require_directory(path)
        except FileNotFoundError as error:
            raise self._http.refusal(again, path) from error

    # Naming

    def rename(self, source: str, target: str) -> None:
        """MOVE without overwriting."""
        _refuse_control_characters(target)
        self._require_whole_names(target)
        self._move(source, target, overwrite="F")

    def replace(self, source: str, target: str) -> None:
        """MOVE over what is there, after a look: some servers would destroy a whole collection."""
        _refuse_control_characters(target)
        try:
            there = self.stat(target)
        except FileNotFoundError:
            pass
        else:
            if there.is_dir:
                raise IsADirectoryError(errno.EISDIR, "is a collection", target)
        self._require_whole_names(target)
        self._move(source, target, overwrite="T")

    def _require_whole_names(self, target: str) -> None:
        """Refuse a name that the server would cut: WsgiDAV ends a Destination at ``?`` and ``;``.

        An empty file is moved to such a name and back to find out, where a cut leads to itself.
        """
        if not CUTTING & {*target, *self._url.path}:
            return
        if self._keeps_names is None:
            directory = posixpath.dirname(target)
            while CUTTING & set(directory):
                directory = posixpath.dirname(directory)
            probe = _temporary(directory)
            self._put_empty(probe)
            try:
                self._move(probe, probe + "?;", overwrite="F")
                self._move(probe + "?;", probe, overwrite="F")
            except (PermissionError, FileExistsError, FileNotFoundError):
                self._keeps_names = False
            else:
                self._keeps_names = True
            finally:
                self._http.request("DELETE", probe, {"Depth": "0"})
        if not self._keeps_names:
            raise OSError(
                errno.EINVAL, "the server would cut the name at '?' or ';': use another", target
            )

    def _put_empty(self, path: str) -> None:
        headers = {"Content-Type": "application/octet-stream", "Content-Length": "0"}
        response = self._http.request("PUT", path, headers)
        if response.status_code not in {200, 201, 204}:
            raise self._http.refusal(response, path)

    def _move(self, source: str, target: str, *, overwrite: str) -> None:
        refused: httpx.Response | None = None
        for base in tuple(self._destinations):
            destination = base + quote_path(target)
            headers = {"Destination": destination, "Overwrite": overwrite}
            response = self._http.request("MOVE", source, headers)
            if response.status_code in {200, 201, 204}:
                # What one server understands it will understand again.
                self._destinations = [base]
                return
            if refused is None or refused.status_code == 502:
                # 502 speaks of the base alone.
                refused = response
            if response.status_code not in {400, 403, 404, 409, 412, 500, 502}:
                break
            # Look before deciding what happened: the answer may be one to a repeated request.
            try:
                self.stat(source)
            except FileNotFoundError:
                self.stat(target)
                return
            if response.status_code == 412:
                break
        assert refused is not None  # noqa: S101 - there always is a base; for the type checker
        if overwrite == "F" and (refused.status_code == 412 or self._is_taken(target)):
            raise FileExistsError(errno.EEXIST, "the name is taken", target)
        raise self._http.refusal(refused, target)

    def _is_taken(self, path: str) -> bool:
        try:
            self.stat(path)
        except FileNotFoundError:
            return False
        return True

    def _possible_destinations(self) -> list[str]:
        """Return what may precede a path in a Destination, in the order to try.

        The URL is what RFC 4918 (10.3) wants. Behind a proxy that ends TLS, or changes the prefix,
        the server knows itself by another: then the path alone, or the other scheme, is understood.
        """
        prefixes = list(dict.fromkeys([self._href_root, self._root]))
        authority = self._url.netloc.decode("ascii")
        other = "http" if self._url.scheme == "https" else "https"
        bases = []
        for prefix in prefixes:
            path = "/" + "".join(quote_path(segment) + "/" for segment in prefix)
            bases += [
                f"{self._url.scheme}://{authority}{path}",
                path,
                f"{other}://{authority}{path}",
            ]
        return bases

    def remove(self, path: str) -> None:
        """DELETE a file or an empty collection.

        DELETE is recursive (RFC 4918, 9.6.1), and servers differ in what holds it back, so a look
        goes first.
        """
        if self._http.can_propfind:
            resources = self._propfind(path, "1")
            is_dir = _itself(resources, path).stat.is_dir
            if len(resources) > 1:
                raise OSError(errno.ENOTEMPTY, "the collection is not empty", path)
            if is_dir:
                self._require_hidden_names(path)
        else:
            is_dir = self._head(path).is_dir
            if is_dir:
                raise OSError(
                    errno.ENOTSUP,
                    "the server does not answer PROPFIND, so nobody can tell whether the "
                    "collection is empty; it was not removed",
                    path,
                )
        headers = {} if is_dir else {"Depth": "0"}
        response = self._http.request("DELETE", path, headers, slash=is_dir)
        if response.status_code not in {200, 202, 204}:
            raise self._http.refusal(response, path)

    def _require_hidden_names(self, path: str) -> None:
        """Refuse to believe a listing without names if the server does not list hidden ones.

        nginx does not, and its DELETE would take them along. An empty file is put into the
        collection, to find out.
        """
        if self._lists_hidden is None:
            probe = _temporary(path)
            self._put_empty(probe)
            try:
                names = [resource.segments[-1:] for resource in self._propfind(path, "1")]
                self._lists_hidden = (posixpath.basename(probe),) in names
            finally:
                response = self._http.request("DELETE", probe, {"Depth": "0"})
            if response.status_code not in {200, 202, 204}:
                raise self._http.refusal(response, path)
        if not self._lists_hidden:
            raise OSError(
                errno.ENOTSUP,
                "the server does not list names that begin with a dot, so nobody can tell whether "
                "the collection is empty; it was not removed",
                path,
            )


def _itself(resources: list[Resource], path: str) -> Resource:
    """Return what was asked for; what else was listed lies below it, and may come before it.

    Raises:
        OSError: It has a status in place of properties.
    """
    itself = min(resources, key=lambda resource: len(resource.segments), default=None)
    if itself is None or itself.status in {404, 410}:
        raise FileNotFoundError(errno.ENOENT, "no such file or collection", path)
    if itself.status is not None and itself.status >= 300:
        number = ERRNO.get(itself.status, errno.EIO)
        raise OSError(number, f"the server says {itself.status} of it", path)
    return itself


def _temporary(directory: str) -> str:
    """Return a hidden name that nobody uses."""
    return posixpath.join(directory, ".netstorage-" + secrets.token_hex(16))


def _stat_of(response: httpx.Response, size: int | None) -> Stat:
    """Describe a file by the headers of an answer."""
    headers = response.headers
    return Stat(
        size=size,
        mtime=http_date(headers.get("last-modified")),
        etag=bare_etag(headers.get("etag")),
    )


def _refuse_control_characters(path: str) -> None:
    """Refuse names that servers mangle, each in its way, while they seem to take them."""
    if CONTROL & set(path):
        raise OSError(
            errno.EINVAL, "control characters in a name do not survive on WebDAV servers", path
        )
