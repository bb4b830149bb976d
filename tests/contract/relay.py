"""A wire between a storage and its server that tests can stop in mid-upload, or cut."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Any

from tests.servers.base import Server

PATIENCE = 15.0
"""Seconds that a test waits for what must come, before it fails."""


class Relay:
    """Passes bytes on between clients and one server.

    Args:
        server: Where they go.
        answers: Whether it is the server's bytes that are counted and stopped, not the clients'.
    """

    def __init__(self, server: Server, *, answers: bool = False) -> None:
        self._server = server
        self._answers = answers
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._left: int | None = None
        self._held = threading.Event()
        self._go = threading.Event()
        self._go.set()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    @property
    def options(self) -> dict[str, Any]:
        """The server's options, with the relay in its place."""
        return self._server.options_through(self.port)

    def hold_after(self, count: int) -> None:
        """Stop what is sent after another ``count`` bytes of it."""
        self._held.clear()
        self._go.clear()
        with self._lock:
            self._left = count

    def wait_until_held(self) -> None:
        """Wait until so much went through, and more is waiting to go."""
        assert self._held.wait(PATIENCE)

    def release(self) -> None:
        """Let everything pass again."""
        with self._lock:
            self._left = None
        self._go.set()

    def cut(self) -> None:
        """Break all connections, at both ends; new ones may be made."""
        with self._lock:
            sockets, self._sockets = self._sockets, []
        for sock in sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        self.release()

    def stop_listening(self) -> None:
        """Refuse new connections from now on."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def __enter__(self) -> Relay:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop_listening()
        self._threads[0].join()
        self.cut()
        for thread in self._threads[1:]:
            thread.join()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client = self._listener.accept()[0]
                try:
                    server = socket.create_connection((self._server.host, self._server.port))
                except OSError:
                    client.close()
                    continue
                with self._lock:
                    self._sockets += [client, server]
                for source, target in ((client, server), (server, client)):
                    gated = (source is server) == self._answers
                    thread = threading.Thread(target=self._pass, args=(source, target, gated))
                    self._threads.append(thread)
                    thread.start()

    def _pass(self, source: socket.socket, target: socket.socket, gated: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(16384):
                if gated:
                    self._gate(len(data))
                target.sendall(data)
        for sock in (source, target):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        # Each direction owns the end that it reads from.
        source.close()

    def _gate(self, count: int) -> None:
        with self._lock:
            if self._left is not None:
                self._left -= count
                if self._left >= 0:
                    return
        if not self._go.is_set():
            self._held.set()
            self._go.wait()
