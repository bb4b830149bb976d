"""Which bytes of a file a client asks for (RFC 9110, section 14)."""

from __future__ import annotations

import re

MAX_RANGES = 16
"""Ranges in one request at the most; each costs a window. Who asks for more gets the whole."""

_RANGE = re.compile(r"(\d{1,18})-(\d{0,18})|-(\d{1,18})", re.ASCII)


def parse(header: str, size: int) -> list[tuple[int, int]] | None:
    """Return the ranges of a Range header as (start, stop), in the order asked for.

    Returns:
        None if the header is to be ignored: it is malformed, speaks of another unit, or wants more
        than the file, or there is nothing in the file. An empty list if it can be understood, but
        no byte of the file is in it.
    """
    matches = _matches(header)
    if matches is None or not size:
        return None
    ranges = []
    for first, last, suffix in matches:
        if suffix:
            start, stop = max(size - int(suffix), 0), size
        else:
            start, stop = int(first), min(int(last) + 1, size) if last else size
            if last and int(last) < start:
                return None
        if start < stop:
            ranges.append((start, stop))
    if sum(stop - start for start, stop in ranges) > size:
        return None
    return ranges


def begin_of(header: str) -> tuple[int, int | None] | None:
    """Return the only range of a Range header as far as that is the same for any size."""
    matches = _matches(header)
    if matches is None or len(matches) != 1 or not matches[0][0]:
        return None
    [(first, last, _)] = matches
    return int(first), int(last) + 1 if last else None


def _matches(header: str) -> list[tuple[str, str, str]] | None:
    unit, equals, texts = header.partition("=")
    if unit.strip().lower() != "bytes" or not equals:
        return None
    # A list may have empty elements (RFC 9110, 5.6.1).
    matches = [_RANGE.fullmatch(text) for part in texts.split(",") if (text := part.strip(" \t"))]
    if not 0 < len(matches) <= MAX_RANGES or not all(matches):
        return None
    return [match.groups("") for match in matches if match]  # type: ignore[misc]
