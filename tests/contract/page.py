"""What docs/servers.md tells of a server: tests compare it with what they see, or write it."""

from __future__ import annotations

import os
import re
from pathlib import Path

from tests.servers.base import Server

PAGE = Path(__file__).parents[2] / "docs" / "servers.md"
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

_ROW = re.compile(r"^\| (?P<question>.+?) \| (?P<answer>.+) \|$", re.MULTILINE)


def check(server: Server, question: str, answer: str) -> None:
    """Compare what a test saw with the page; with NETSTORAGE_SERVERS_PAGE=write, write it there."""
    if WRITE and server.name not in SAME:
        _write(server.name, question, answer)
    assert told(server.name).get(question) == answer


def told(name: str) -> dict[str, str]:
    """The answers in a server's table, by their questions."""
    text = PAGE.read_text()
    return dict(_ROW.findall(text, *_section(text, name)))


def _section(text: str, name: str) -> tuple[int, int]:
    """Where a server's part of the page begins and ends."""
    start = text.index(f"\n### {SECTIONS[SAME.get(name, name)]}\n") + 1
    end = re.compile(r"^##", re.MULTILINE).search(text, start + 3)
    return start, end.start() if end else len(text)


def _write(name: str, question: str, answer: str) -> None:
    text = PAGE.read_text()
    start, stop = _section(text, name)
    row = f"| {question} | {answer} |"
    rows = list(_ROW.finditer(text, start, stop))
    for match in rows:
        if match["question"] == question:
            text = text[: match.start()] + row + text[match.end() :]
            break
    else:
        end = rows[-1].end() if rows else text.index("|---|---|", start, stop) + len("|---|---|")
        text = f"{text[:end]}\n{row}{text[end:]}"
    PAGE.write_text(text)
