"""Tables of the documentation: tests compare them with what they see, or write them."""

from __future__ import annotations

import os
import re
from pathlib import Path

from tests.servers.base import Server

DOCS = Path(__file__).parents[2] / "docs"
PAGE = DOCS / "servers.md"
WRITE = os.environ.get("NETSTORAGE_SERVERS_PAGE") == "write"

SECTIONS = {
    "sshd": "OpenSSH",
    "proftpd": "ProFTPD",
    "embedded-sftp": "asyncssh",
    "rclone-sftp": "rclone serve sftp",
    "apache": "Apache",
    "nginx": "nginx with dav_ext",
    "lighttpd": "lighttpd",
    "sabre": "sabre/dav",
    "embedded-webdav": "WsgiDAV",
    "rclone-webdav": "rclone serve webdav",
    "nginx-plain": "nginx without dav_ext",
}
"""The heading over each server's table."""

SAME = {
    "docker-sshd": "sshd",
    "docker-apache": "apache",
    "apache-behind-tls": "apache",
    "apache-behind-prefix": "apache",
}
"""Servers that do what another does, and have no table of their own."""

_ROW = re.compile(r"^\| (?P<question>.+?) \| (?P<answer>.+) \|$(?!\n\|-)", re.MULTILINE)
_HEAD = re.compile(r"^\|(-+\|)+$", re.MULTILINE)


def check(server: Server, question: str, answer: str) -> None:
    """Compare what a test saw with the page; with NETSTORAGE_SERVERS_PAGE=write, write it there."""
    if WRITE and server.name not in SAME:
        write(PAGE, SECTIONS[server.name], question, answer)
    assert told(server.name).get(question) == answer


def told(name: str) -> dict[str, str]:
    """The answers in a server's table, by their questions."""
    return rows(PAGE, SECTIONS[SAME.get(name, name)])


def rows(page: Path, heading: str) -> dict[str, str]:
    """The table under a heading: the first column, and the others as they stand."""
    text = page.read_text()
    return dict(_ROW.findall(text, *_section(text, heading)))


def write(page: Path, heading: str, question: str, answer: str) -> None:
    """Put a row into the table under a heading, in its old one's place or at the end."""
    text = page.read_text()
    start, stop = _section(text, heading)
    row = f"| {question} | {answer} |"
    found = list(_ROW.finditer(text, start, stop))
    for match in found:
        if match["question"] == question:
            text = text[: match.start()] + row + text[match.end() :]
            break
    else:
        head = _HEAD.search(text, start, stop)
        assert head is not None, f"no table under {heading}"
        end = found[-1].end() if found else head.end()
        text = f"{text[:end]}\n{row}{text[end:]}"
    page.write_text(text)


def _section(text: str, heading: str) -> tuple[int, int]:
    """Where what is under a heading begins and ends."""
    start = text.index(f"\n### {heading}\n") + 1
    end = re.compile(r"^##", re.MULTILINE).search(text, start + 3)
    return start, end.start() if end else len(text)
