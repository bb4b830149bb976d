"""What every embedded server's process does: read its configuration, serve, and end in time."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Final

Config = dict[str, Any]

GRACE_SECONDS: Final = 2.0
"""How long open connections may delay the end."""


def run(serve: Callable[[Config], AbstractContextManager[int]]) -> None:
    """Serve until the parent says "stop" or "pause", closes the pipe, or SIGTERM arrives.

    Args:
        serve: Starts the server in threads of its own; the context's value is its port, its end
            stops the server.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    done = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: done.set())
    lines = _lines(sys.stdin.fileno())
    config = json.loads(next(lines, b"{}"))
    if not config:
        return
    order = b"pause"

    def obey() -> None:
        nonlocal order
        # The end of the pipe is the end of the parent: nobody else will clean up.
        order = next(lines, b"stop")
        done.set()

    threading.Thread(target=obey, name="orders", daemon=True).start()
    try:
        server = serve(config)
        port = server.__enter__()
    except OSError as error:
        sys.exit(f"{config['host']}:{config['port']}: {error}")
    _announce(port)
    done.wait()
    ending = threading.Thread(target=server.__exit__, args=(None, None, None), daemon=True)
    ending.start()
    ending.join(GRACE_SECONDS)
    if order == b"stop" and config["remove_root"]:
        shutil.rmtree(config["root"], ignore_errors=True)
    if ending.is_alive():
        # Threads that still wait for a client would keep the interpreter from ending.
        os._exit(0)


def _announce(port: int) -> None:
    """Tell the parent the port; from then on standard output is part of the log."""
    print(json.dumps({"port": port}), flush=True)  # noqa: T201  # the parent reads it
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())


def _lines(descriptor: int) -> Iterator[bytes]:
    """Lines from a pipe, read without `sys.stdin`, whose lock would be held at exit."""
    buffer = b""
    while chunk := os.read(descriptor, 65536):
        *lines, buffer = (buffer + chunk).split(b"\n")
        yield from lines
