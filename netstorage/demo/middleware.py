"""What a visitor sees when a server is away, in the admin as on the page."""

from __future__ import annotations

from collections.abc import Callable

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from netstorage.exceptions import NetStorageError

STORAGE_ERRORS = (NetStorageError, OSError)
"""Everything that a storage may raise for what a server did."""


class StorageErrors:
    """Turn a storage's errors into a page that tells them.

    Args:
        get_response: The site behind.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """Answer the request."""
        return self.get_response(request)

    def process_exception(self, request: HttpRequest, error: Exception) -> HttpResponse | None:
        """Answer a request whose view failed."""
        if not isinstance(error, STORAGE_ERRORS):
            return None
        status = 404 if isinstance(error, FileNotFoundError) else 503
        context = {"error": error, "kind": type(error).__name__}
        return render(request, "netstorage_demo/error.html", context, status=status)
