"""Real servers whose files lie in memory, and the long lines to them."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.servers.apache import Apache
from tests.servers.base import Server
from tests.servers.nginx import Nginx
from tests.servers.sshd import Sshd

from .child import in_memory
from .proxy import Proxy

Options = dict[str, Any]


@dataclass
class Target:
    """A running server: how clients reach it, and the folder where its files lie.

    Attributes:
        options: What the storage class takes; the peers translate them.
        direct: The same without the line between.
        root: The folder behind the storage's root.
        proxy: The line between, if there is a delay or a count.
    """

    options: Options
    direct: Options
    root: Path
    proxy: Proxy | None = None

    def put(self, name: str, data: bytes) -> None:
        """Put a file there behind the server's back."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        # Apache's worker is another user.
        path.parent.chmod(0o777)
        path.chmod(0o666)

    def clear(self, *names: str) -> None:
        """Remove files or folders behind the server's back."""
        for name in names:
            path = self.root / name
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


@contextmanager
def sshd(*, rtt: float = 0, counted: bool = False) -> Iterator[Target]:
    """OpenSSH's server with its own defaults, but for the bursts of connections that it drops."""
    with _on_line(Sshd(extra=["MaxStartups 100"]), rtt, counted) as target:
        yield target


@contextmanager
def apache(*, rtt: float = 0, counted: bool = False) -> Iterator[Target]:
    """Apache httpd with mod_dav, asking for a password, and taking files of more than 1 GiB."""
    with _on_line(Apache(extra=["LimitRequestBody 0"]), rtt, counted) as target:
        yield target


@contextmanager
def nginx(*, rtt: float = 0, counted: bool = False) -> Iterator[Target]:
    """nginx with dav_ext, asking for a password."""
    with _on_line(Nginx(), rtt, counted) as target:
        yield target


@contextmanager
def _on_line(server: Server, rtt: float, counted: bool) -> Iterator[Target]:
    elsewhere, tempfile.tempdir = tempfile.tempdir, in_memory()
    try:
        server.start()
    finally:
        tempfile.tempdir = elsewhere
    with contextlib.ExitStack() as stack:
        stack.callback(server.stop)
        assert server.root is not None
        direct = through = server.options
        proxy = None
        if rtt or counted:
            proxy = stack.enter_context(Proxy(server.host, server.port, rtt / 2))
            through = server.options_through(proxy.port)
        yield Target(through, direct, server.root, proxy)


@contextmanager
def scratch() -> Iterator[Path]:
    """A local folder in memory, for the clients' side."""
    with tempfile.TemporaryDirectory(prefix="netstorage-bench-", dir=in_memory()) as folder:
        yield Path(folder)
