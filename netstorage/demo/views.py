"""The demo's page."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any, cast

from django import forms
from django.contrib import messages
from django.core.files.storage import Storage, storages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_POST

from netstorage.limits import PoolStats
from netstorage.pool import ConnectionPool
from netstorage.storage import NetworkStorage

from .middleware import STORAGE_ERRORS
from .models import SFTPUpload, WebDAVUpload
from .servers import Server

MODELS: dict[Server, type[SFTPUpload | WebDAVUpload]] = {
    Server.SFTP: SFTPUpload,
    Server.WEBDAV: WebDAVUpload,
}
LISTED = 200
"""Files shown of each server at the most: each costs two requests."""

MEANINGS = {
    "size": "sessions that are open",
    "idle": "… lie ready",
    "in_use": "… are lent",
    "connecting": "sessions that are being opened",
    "waiting": "requests that wait for a session",
    "requests": "sessions asked for so far",
    "waits": "… had to wait",
    "wait_seconds": "… waited, in sum",
    "timeouts": "… waited in vain",
    "connects": "sessions opened so far",
    "connect_errors": "attempts that failed",
    "closed_idle": "closed: unused for too long",
    "closed_lifetime": "closed: old enough",
    "closed_broken": "closed: broken",
}


class UploadForm(forms.Form):
    """A file and the server that it goes to."""

    server = forms.ChoiceField(
        choices=Server.choices, initial=Server.SFTP, widget=forms.RadioSelect
    )
    file = forms.FileField(allow_empty_file=True)


@dataclass(frozen=True)
class RemoteFile:
    """A line of a listing."""

    name: str
    url: str
    size: int
    modified: datetime


@dataclass
class Shelf:
    """What the page shows of one server."""

    server: Server
    pool: ConnectionPool
    files: list[RemoteFile] = field(default_factory=list)
    more: bool = False
    error: Exception | None = None

    @property
    def total(self) -> int:
        """Bytes in all the files shown."""
        return sum(file.size for file in self.files)


def index(request: HttpRequest) -> HttpResponse:
    """Show everything; take an upload."""
    form = UploadForm(request.POST or None, request.FILES or None)
    if request.method == "POST" and form.is_valid():
        server = Server(form.cleaned_data["server"])
        try:
            upload = MODELS[server](file=form.cleaned_data["file"])
            upload.save()
        except STORAGE_ERRORS as error:
            messages.error(request, f"Not uploaded. {error}")
        else:
            messages.success(request, f"{upload.file.name} lies on the {server.label} server.")
        return redirect("index")
    shelves = [_shelf(server) for server in Server]
    context = {"form": form, "shelves": shelves, "numbers": list(_numbers(shelves))}
    return render(request, "netstorage_demo/index.html", context)


@require_POST
def delete(request: HttpRequest) -> HttpResponse:
    """Delete a file, and its row if it has one."""
    server = _server(request.POST.get("server", ""))
    name = request.POST.get("name", "")
    try:
        rows, _ = MODELS[server]._default_manager.filter(file=name).delete()
        if not rows:
            storages[server].delete(name)
    except STORAGE_ERRORS as error:
        messages.error(request, f"Not deleted. {error}")
    else:
        messages.success(request, f"{name} is gone from the {server.label} server.")
    return redirect("index")


def _server(alias: str) -> Server:
    if alias not in Server.values:
        raise Http404(f"There is no server {alias!r}.")
    return Server(alias)


def _shelf(server: Server) -> Shelf:
    """Look at what lies on a server."""
    storage = cast(NetworkStorage, storages[server])
    shelf = Shelf(server, storage.pool)
    try:
        for name in _walk(storage):
            if len(shelf.files) == LISTED:
                shelf.more = True
                break
            try:
                name.encode()
            except UnicodeEncodeError:
                # Not UTF-8 on the server: no page can hold it.
                shelf.more = True
                continue
            try:
                size, modified = storage.size(name), storage.get_modified_time(name)
            except FileNotFoundError:
                # Deleted since it was listed.
                continue
            shelf.files.append(RemoteFile(name, storage.url(name), size, modified))
    except STORAGE_ERRORS as error:
        shelf.error = error
    shelf.files.sort(key=lambda file: file.name)
    shelf.files.sort(key=lambda file: file.modified, reverse=True)
    return shelf


def _walk(storage: Storage, folder: str = "") -> Iterator[str]:
    """Name the files in and below ``folder``."""
    folders, files = storage.listdir(folder)
    for name in files:
        yield posixpath.join(folder, name)
    for name in folders:
        yield from _walk(storage, posixpath.join(folder, name))


def _numbers(shelves: list[Shelf]) -> Iterator[tuple[str, str, list[Any]]]:
    """Give the lines of the pools' table: a number's name, its meaning, its value in each pool."""
    stats = [shelf.pool.stats() for shelf in shelves]
    for number in fields(PoolStats):
        values = [getattr(pool, number.name) for pool in stats]
        yield number.name, MEANINGS.get(number.name, ""), values
