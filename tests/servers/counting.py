"""A line to a server on which each client's bytes are counted."""

from __future__ import annotations

import select
import socket
import threading
from contextlib import suppress

DEADLINE = 30
"""Seconds after which a thread is taken to hang."""


class Proxy:
    """Passes connections on to a server and counts what clients send; can hold back a connection.

    Attributes:
        sent: Bytes that came from the client, for each connection in turn.
        ended: Whether the client closed it.
    """

    def __init__(self, port: int) -> None:
        self._target = ("127.0.0.1", port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.sent: list[int] = []
        self.ended: list[bool] = []
        self.stalled = threading.Event()
        self._stall_after: int | None = None
        self._go_on = threading.Event()
        self._stop = False
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def stall_after(self, count: int) -> None:
        """Pass on no more than `count` bytes of the connections that are open now."""
        self._stall_after = count

    def go_on(self) -> None:
        self._stall_after = None
        self._go_on.set()

    def stop(self) -> None:
        self._stop = True
        self.go_on()
        with socket.create_connection(("127.0.0.1", self.port)):
            pass
        for thread in self._threads:
            thread.join(DEADLINE)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            client, _ = self._listener.accept()
            if self._stop:
                client.close()
                return
            self.sent.append(0)
            self.ended.append(False)
            number = len(self.sent) - 1
            thread = threading.Thread(target=self._relay, args=(client, number), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _relay(self, client: socket.socket, number: int) -> None:
        with client, socket.create_connection(self._target) as server, suppress(ConnectionError):
            while not self._stop:
                ready, _, _ = select.select([client, server], [], [], 0.05)
                for source, target in ((client, server), (server, client)):
                    if source not in ready:
                        continue
                    data = source.recv(65536)
                    if source is client:
                        self.sent[number] += len(data)
                        self.ended[number] |= not data
                        limit = self._stall_after
                        if limit is not None and number == 0 and self.sent[number] > limit:
                            self.stalled.set()
                            self._go_on.wait(DEADLINE)
                    if not data:
                        return
                    target.sendall(data)
