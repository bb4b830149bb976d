"""Start the servers and the site, wait, and leave nothing behind."""

from __future__ import annotations

import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType

from netstorage.pool import all_pools
from netstorage.testing import SFTPServer, WebDAVServer

from . import once as rehearsal
from . import site


def run(*, port: int | None, once: bool) -> int:
    """Run the site until a signal ends it, or ``once`` through all that it can do.

    Args:
        port: Of the site; None: 8000 or a free one.
        once: Whether to use the site by ourselves and return.

    Returns:
        The exit code.
    """
    started = time.monotonic()
    with _signals() as stop, ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="netstorage-demo-"))
        sftp = stack.enter_context(SFTPServer())
        webdav = stack.enter_context(WebDAVServer())
        site.configure(Path(folder), sftp=sftp.options, webdav=webdav.options, quiet=once)
        # Sessions end before their servers do.
        stack.callback(_close_pools)
        site.prepare()
        try:
            url = stack.enter_context(site.serve(0 if once and port is None else port))
        except OSError as error:
            sys.stderr.write(f"The site cannot use port {port}: {error.strerror}\n")
            return 2
        addresses = f"SFTP on {sftp.host}:{sftp.port}, WebDAV on {webdav.host}:{webdav.port}"
        if once:
            return rehearsal.rehearse(url, addresses, time.monotonic() - started, stop.is_set)
        sys.stdout.write(
            f"Site:    {url}\n"
            f"Admin:   {url}admin/ (user demo, password demo)\n"
            f"Servers: {addresses}\n"
            "Ctrl-C ends everything and removes the files.\n"
        )
        sys.stdout.flush()
        # An endless wait would not notice Ctrl-C on Windows.
        while not stop.wait(0.5):
            pass
    return 0


def _close_pools() -> None:
    for pool in all_pools():
        pool.close()


@contextmanager
def _signals() -> Iterator[threading.Event]:
    """Turn the signals that end a program into an event.

    An exception in the middle of a server's start or of the clean-up could leave something behind.
    """
    stop = threading.Event()

    def handle(signum: int, frame: FrameType | None) -> None:
        stop.set()

    names = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    before = [(number, signal.signal(number, handle)) for number in numbers]
    try:
        yield stop
    finally:
        for number, handler in before:
            signal.signal(number, handler)
