"""What ``check`` finds, step by step, and how it is told."""

from __future__ import annotations

import errno
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from django.core.exceptions import ImproperlyConfigured

from ..exceptions import ConnectError, NetStorageError, ProtocolError

SHORTEST = 1e-4
"""Seconds below which a step asked nothing of the server, and its time says nothing."""
WIDTH = 80

# What to do about a server's verdict, where the words of the error do not tell.
REMEDIES = {
    errno.EACCES: "Give the user the right to do this: look at owner and mode on the server.",
    errno.EPERM: "Give the user the right to do this: look at owner and mode on the server.",
    errno.ENOSPC: "Make room on the server's disk.",
    errno.EDQUOT: "Make room, or raise the user's quota on the server.",
    errno.EROFS: "Mount the server's disk for writing, or set the option read_only.",
    errno.EFBIG: "Raise the server's limit for the size of uploads (nginx: client_max_body_size).",
    errno.ENOTSUP: "Check that the options name a folder in which the server lets files be saved.",
    errno.EIO: "The server's log should tell why.",
    errno.ETIMEDOUT: "Look at the server and the line; if both are just slow, raise that option.",
}


@dataclass(frozen=True)
class Finding:
    """What one step found.

    Attributes:
        step: The step's name, one of those in docs/howto-check.md.
        status: "ok", "note" (it works, and something should be known), "fail", or "skip".
        found: What was found, in words.
        seconds: How long the step took; None if it was skipped.
        remedy: What to do about it; empty where there is nothing to do.
    """

    step: str
    status: str
    found: str
    seconds: float | None = None
    remedy: str = ""


class Note(NamedTuple):
    """What a step returns that works, but should be known."""

    found: str
    remedy: str


class Step(NamedTuple):
    """One step.

    Attributes:
        name: Its name.
        look: What it does; returns what it found, or None if there is nothing to say.
        needs: The steps without which there is no sense in it.
        remedy: What to do if it fails, where the error does not say.
    """

    name: str
    look: Callable[[], str | Note | None]
    needs: tuple[str, ...] = ()
    remedy: str = ""


SESSION = "session"
"""Needed by the steps that use the session; broken by whatever ends one."""


def walk(steps: Iterable[Step]) -> Iterator[Finding]:
    """Do one step after the other, and skip those that stand on one that failed."""
    missing: set[str] = set()
    for step in steps:
        if missing.intersection(step.needs):
            missing.add(step.name)
            yield Finding(step.name, "skip", "not tried")
            continue
        began = time.monotonic()
        try:
            answer = step.look()
        except Exception as error:  # noqa: BLE001 - foreign storages and callables raise anything
            seconds = time.monotonic() - began
            missing.add(step.name)
            if isinstance(error, (ConnectionError, TimeoutError, ProtocolError)):
                missing.add(SESSION)
            found, remedy = explain(error)
            yield Finding(step.name, "fail", found, seconds, remedy or step.remedy)
            continue
        seconds = time.monotonic() - began
        if isinstance(answer, Note):
            found, remedy = map(_plain, answer)
            yield Finding(step.name, "note", found, seconds, remedy)
        elif answer is not None:
            yield Finding(step.name, "ok", _plain(answer), seconds)


def explain(error: Exception) -> tuple[str, str]:
    """Return what went wrong, and what to do about it.

    Errors of this package tell the first in a sentence, and the second behind it.
    """
    text = str(error)
    if isinstance(error, OSError) and error.strerror and not isinstance(error, ConnectError):
        text = error.strerror
    elif not isinstance(error, (NetStorageError, ImproperlyConfigured, OSError)):
        text = f"{type(error).__name__}: {text}"
    found, _, remedy = _plain(text).partition(". ")
    if not remedy and isinstance(error, OSError):
        remedy = REMEDIES.get(error.errno or 0, "")
    return found.rstrip("."), remedy


def _plain(text: str) -> str:
    """Return text without what would move a terminal's cursor: some of it is the server's."""
    return "".join(c if c.isprintable() else " " if c.isspace() else "?" for c in text)


def lines(findings: Iterable[Finding]) -> Iterator[str]:
    """Write findings in lines of 80 columns at the most, as they come; skipped ones in one."""
    skipped: list[str] = []
    for finding in findings:
        if finding.status == "skip":
            skipped.append(finding.step)
            continue
        yield from _skipped(skipped)
        skipped = []
        status = finding.status.upper() if finding.status == "fail" else finding.status
        took = f"  ({_time(finding.seconds)})" if (finding.seconds or 0) >= SHORTEST else ""
        yield from _wrapped(f"{status:6}{finding.step:12}", 18, finding.found + took)
        if finding.remedy:
            yield from _wrapped("      -> ", 9, finding.remedy)
    yield from _skipped(skipped)


def _skipped(steps: list[str]) -> Iterator[str]:
    if steps:
        yield from _wrapped(
            "skip  not tried: ", 6, ", ".join(s.replace(" ", "\xa0") for s in steps)
        )


def _wrapped(head: str, indent: int, text: str) -> Iterator[str]:
    # A space that does not break keeps a number and its unit together.
    for line in textwrap.wrap(
        text,
        WIDTH,
        initial_indent=head,
        subsequent_indent=" " * indent,
        break_on_hyphens=False,
    ):
        yield line.replace("\xa0", " ")


def _time(seconds: float | None) -> str:
    seconds = seconds or 0.0
    return f"{seconds:.1f}\xa0s" if seconds >= 1 else f"{seconds * 1000:.1f}\xa0ms"
