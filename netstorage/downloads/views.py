"""The view that gives a storage's files to those who may have them."""

from __future__ import annotations

import errno
import logging
import mimetypes
import posixpath
import re
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from inspect import isawaitable
from typing import TypeVar, cast

from django.core.exceptions import ImproperlyConfigured, PermissionDenied, SuspiciousFileOperation
from django.core.files.storage import storages
from django.core.handlers.asgi import ASGIRequest
from django.core.signing import BadSignature
from django.http import Http404, HttpRequest, HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.utils.cache import get_conditional_response, patch_cache_control
from django.utils.http import content_disposition_header, http_date, parse_http_date_safe
from django.views.decorators.http import require_safe

from ..exceptions import NetStorageError
from ..names import quoted
from ..session import Stat
from ..storage import NetworkStorage, is_temporary
from . import byteranges
from .content import Content, Part

logger = logging.getLogger("netstorage.downloads")

R = TypeVar("R", bound=HttpResponseBase)
Permission = Callable[[HttpRequest, str], bool]

INLINE = re.compile(
    r"image/(avif|bmp|gif|jpeg|png|vnd\.microsoft\.icon|webp|x-icon)|(audio|video)/[\w.+-]+"
    r"|application/pdf|text/plain"
)
"""Types that browsers show and that cannot act in the site's name, as HTML and SVG can."""
FRESH = 2
"""Seconds in which a file may change again without its time showing it."""
NO_NAME = {errno.EINVAL, errno.ENAMETOOLONG}
"""What servers say to names that no file has there."""
CONDITIONS = ("If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since", "If-Range")


@require_safe
def download(
    request: HttpRequest,
    name: str,
    storage: str | NetworkStorage = "default",
    permission: Permission | None = None,
    accel_redirect: str | None = None,
) -> HttpResponseBase:
    """Send a file of a storage, with ranges and conditional requests (RFC 9110), as it streams in.

    If the storage has the option ``querystring_auth``, only whoever has a link of its ``url()`` may
    have the file. Whoever ``permission`` refuses may not, either. One of both is needed.

    Args:
        request: A GET or HEAD.
        name: The file's name in the storage.
        storage: An alias of STORAGES, or a storage.
        permission: Is given the request and the name, and says whether that is allowed.
        accel_redirect: For nginx in front of the site and a WebDAV server behind it: the path of
            the internal location in which nginx fetches from there what the storage has as its
            ``url``. Then nothing is read here, unless several ranges are asked for at once.

    Raises:
        PermissionDenied: It is not allowed, and nothing tells whether there is such a file.
        Http404: There is no such file.
        ImproperlyConfigured: The storage is not one of ours, or anybody might have every file.
    """
    where = storages[storage] if isinstance(storage, str) else storage
    if not isinstance(where, NetworkStorage):
        raise ImproperlyConfigured(
            f"netstorage's view serves SFTPStorage and WebDAVStorage, and {storage!r} is a "
            f"{type(where).__name__}."
        )
    try:
        # Not as the client wrote it: "mine/../yours" is yours.
        name = where._clean(name)
        _refuse_strangers(request, where, name, permission)
        if any(is_temporary(part) for part in name.split("/")):
            raise Http404("It is an upload that is under way.")
        # The Content-Type of several ranges is the server's, and nginx keeps that of the view.
        if accel_redirect is not None and "," not in request.headers.get("Range", ""):
            return _redirected(where, name, accel_redirect)
        with ExitStack() as stack:
            content = Content(where, name)
            stack.callback(content.close)
            response = _answer(request, content, name)
            if response.streaming:
                stack.pop_all()
            return response
    except (
        FileNotFoundError,
        IsADirectoryError,
        NotADirectoryError,
        SuspiciousFileOperation,
    ) as error:
        raise Http404("There is no such file.") from error
    except PermissionError as error:
        logger.warning("the server refuses a download: %s", error)
        raise PermissionDenied from error
    except (NetStorageError, OSError) as error:
        if isinstance(error, OSError) and error.errno in NO_NAME:
            raise Http404("There is no such file.") from error
        logger.error("a download failed: %s", error)  # noqa: TRY400 - told, and no bug of ours
        return HttpResponse("The file cannot be had at the moment.", "text/plain", status=503)


def _refuse_strangers(
    request: HttpRequest, storage: NetworkStorage, name: str, permission: Permission | None
) -> None:
    if not (storage.signs_urls or permission):
        raise ImproperlyConfigured(
            "netstorage's view would give every file to anybody: set the storage's option "
            "'querystring_auth', or give the view a 'permission'."
        )
    if storage.signs_urls:
        try:
            storage.verify_url(name, request.GET)
        except BadSignature as error:
            raise PermissionDenied from error
    if permission is None:
        return
    if "\\" in name and not storage.signs_urls:
        # On Windows it is a slash: "mine\..\yours" may be yours. No link of url() has one.
        raise PermissionDenied
    allowed: object = permission(request, name)
    if isawaitable(allowed):
        raise ImproperlyConfigured("netstorage's view takes no 'permission' that is async.")
    if not allowed:
        raise PermissionDenied


def _answer(request: HttpRequest, content: Content, name: str) -> HttpResponseBase:
    """Answer a request that is allowed."""
    wanted = request.headers.get("Range") if request.method == "GET" else None
    begin = byteranges.begin_of(wanted) if wanted else (0, None)
    if request.method == "HEAD" or begin is None or any(map(request.headers.get, CONDITIONS)):
        content.look()
    else:
        content.begin(*begin)
    stat = cast("Stat", content.stat)
    if stat.is_dir:
        raise IsADirectoryError
    modified = None if stat.mtime is None else int(stat.mtime)
    etag = _entity_tag(stat)
    headers = {**_headers(name), "Accept-Ranges": "bytes"}
    if etag:
        headers["ETag"] = etag
    if modified is not None:
        headers["Last-Modified"] = http_date(modified)

    whole = _described(HttpResponse(), headers)
    answer = get_conditional_response(request, etag, modified, whole) or whole
    if answer is not whole:
        return answer
    size = content.size
    if request.method == "HEAD":
        return _described(HttpResponse(), {**headers, "Content-Length": str(size)})
    ranges = None
    if wanted and _is_current(request.headers.get("If-Range"), etag, modified):
        ranges = byteranges.parse(wanted, size)
    return _body(request, content, headers, ranges, size)


def _body(
    request: HttpRequest,
    content: Content,
    headers: dict[str, str],
    ranges: list[tuple[int, int]] | None,
    size: int,
) -> HttpResponseBase:
    """Answer with the file, or with ranges of it."""
    status = 206
    parts: list[Part]
    if ranges is None:
        status, parts, length = 200, [(0, size)], size
    elif not ranges:
        unsatisfied = {"Accept-Ranges": "bytes", "Content-Range": f"bytes */{size}"}
        return _described(HttpResponse(status=416), unsatisfied)
    elif len(ranges) == 1:
        [(start, stop)] = parts = [*ranges]
        headers["Content-Range"] = _content_range(start, stop, size)
        length = stop - start
    else:
        boundary = secrets.token_hex(16)
        parts = list(_multipart(ranges, size, headers["Content-Type"], boundary))
        headers["Content-Type"] = f"multipart/byteranges; boundary={boundary}"
        length = sum(len(part) if isinstance(part, bytes) else part[1] - part[0] for part in parts)
    headers["Content-Length"] = str(length)
    if status == 206:
        # Or GZipMiddleware would compress a part, and nobody could put the parts together.
        headers["Content-Encoding"] = "identity"
    stream = content.astream if isinstance(request, ASGIRequest) else content.stream
    return _described(StreamingHttpResponse(stream(parts), status=status), headers)


def _multipart(
    ranges: list[tuple[int, int]], size: int, content_type: str, boundary: str
) -> Iterator[Part]:
    """Give the parts of a multipart/byteranges (RFC 9110, section 14.6)."""
    for start, stop in ranges:
        yield (
            f"\r\n--{boundary}\r\nContent-Type: {content_type}\r\n"
            f"Content-Range: {_content_range(start, stop, size)}\r\n\r\n"
        ).encode()
        yield start, stop
    yield f"\r\n--{boundary}--\r\n".encode()


def _content_range(start: int, stop: int, size: int) -> str:
    return f"bytes {start}-{stop - 1}/{size}"


def _redirected(storage: NetworkStorage, name: str, location: str) -> HttpResponse:
    """Leave the file to nginx, which asks the WebDAV server for it."""
    if "url" not in storage.options:
        raise ImproperlyConfigured(
            f"accel_redirect needs a WebDAV server to fetch from, and this is {storage!r}. Leave "
            "it out, and the view sends the files itself."
        )
    if not name:
        raise IsADirectoryError
    headers = _headers(name)
    headers["X-Accel-Redirect"] = posixpath.join(location, quoted(storage._path(name)))
    return _described(HttpResponse(), headers)


def _headers(name: str) -> dict[str, str]:
    """Return what follows from the name alone."""
    content_type, encoding = mimetypes.guess_type(name)
    if encoding or not content_type:
        # A browser that is told of an encoding undoes it: what comes down would be another file.
        content_type = ENCODINGS.get(encoding or "", "application/octet-stream")
    basename = re.sub(r"[\x00-\x1f\x7f]", "_", posixpath.basename(name))
    return {
        "Content-Type": content_type,
        "Content-Disposition": content_disposition_header(
            not INLINE.fullmatch(content_type), basename
        )
        or "attachment",
        "X-Content-Type-Options": "nosniff",
    }


ENCODINGS = {
    "br": "application/x-brotli",
    "bzip2": "application/x-bzip",
    "compress": "application/x-compress",
    "gzip": "application/gzip",
    "xz": "application/x-xz",
}
"""Types of files that are compressed, as Django's FileResponse knows them."""


def _described(response: R, headers: dict[str, str]) -> R:
    for header, value in headers.items():
        response.headers[header] = value
    patch_cache_control(response, private=True)
    return response


def _entity_tag(stat: Stat) -> str | None:
    """Return the server's own entity tag, or one of time and length as nginx makes it.

    It is weak while the file is fresh: it might change and keep it.
    """
    if stat.mtime is None and stat.etag is None:
        return None
    tag = stat.etag
    if tag is None or not re.fullmatch(r"[\x21\x23-\x7e]+", tag):
        tag = f"{int(stat.mtime or 0):x}-{stat.size or 0:x}"
    return f'W/"{tag}"' if _is_fresh(stat.mtime) else f'"{tag}"'


def _is_fresh(mtime: float | None) -> bool:
    return mtime is not None and time.time() - mtime < FRESH


def _is_current(condition: str | None, etag: str | None, modified: int | None) -> bool:
    """Tell whether If-Range allows a range (RFC 9110, section 13.1.5): there, it must match."""
    if condition is None:
        return True
    condition = condition.strip()
    if condition.startswith(('"', "W/")):
        return condition == etag and not condition.startswith("W/")
    return (
        modified is not None
        and not _is_fresh(modified)
        and parse_http_date_safe(condition) == modified
    )
