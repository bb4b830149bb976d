"""The embedded SFTP server's process: asyncssh."""

from __future__ import annotations

import asyncio
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import asyncssh

from netstorage.testing._child import Config, run

CLOSE_SECONDS: Final = 1.0
"""How long connections may take to close."""


@contextmanager
def serve(config: Config) -> Iterator[int]:
    """Run asyncssh's event loop in a thread; the value is the port."""
    root = config["root"].encode()

    class Server(asyncssh.SSHServer):
        def begin_auth(self, username: str) -> bool:
            return True

        def password_auth_supported(self) -> bool:
            return True

        def validate_password(self, username: str, password: str) -> bool:
            return username == config["username"] and secrets.compare_digest(
                password.encode(), config["password"].encode()
            )

    keys = config["authorized_keys"]

    async def listen() -> asyncssh.SSHAcceptor:
        return await asyncssh.listen(
            config["host"],
            config["port"],
            server_factory=Server,
            server_host_keys=[asyncssh.import_private_key(config["private_key"])],
            authorized_client_keys=asyncssh.import_authorized_keys(keys) if keys else None,
            sftp_factory=lambda channel: asyncssh.SFTPServer(channel, chroot=root),
        )

    async def close() -> None:
        acceptor.close()
        acceptor.close_all_connections()
        await asyncio.wait_for(acceptor.wait_closed(), CLOSE_SECONDS)

    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="asyncssh", daemon=True)
    thread.start()
    acceptor = asyncio.run_coroutine_threadsafe(listen(), loop).result()
    try:
        yield acceptor.get_port()
    finally:
        try:
            asyncio.run_coroutine_threadsafe(close(), loop).result()
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()


if __name__ == "__main__":
    run(serve)
