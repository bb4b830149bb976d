"""The embedded WebDAV server's process: wsgidav on cheroot."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from cheroot import wsgi
from wsgidav.fs_dav_provider import FilesystemProvider
from wsgidav.wsgidav_app import WsgiDAVApp

from netstorage.testing._child import Config, run


class Server(wsgi.Server):
    """cheroot, able to come back on the port that it was given by the operating system."""

    keep_alive_conn_limit = 1000
    # Seconds; also how long the end of the server may take to be noticed.
    expiration_interval = 0.1

    @staticmethod
    def bind_socket(socket_: socket.socket, bind_addr: tuple[str, int]) -> socket.socket:
        """Bind so that a successor may bind while old connections still linger."""
        if os.name == "posix":
            socket_.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        socket_.bind(bind_addr)
        return socket_


def refuse_bad_paths(app: Callable[..., Iterable[bytes]]) -> Callable[..., Iterable[bytes]]:
    """Answer 400 to ``..`` and to bytes that are not UTF-8, where wsgidav leaves clients waiting.

    Args:
        app: The WSGI application that gets all other requests.
    """

    def guarded(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        try:
            # WSGI shows each byte of the path as one character.
            segments = environ["PATH_INFO"].encode("latin-1").decode().split("/")
        except UnicodeDecodeError:
            segments = [".."]
        if ".." not in segments:
            return app(environ, start_response)
        start_response("400 Bad Request", [("Content-Length", "0")])
        return [b""]

    return guarded


@contextmanager
def serve(config: Config) -> Iterator[int]:
    """Run cheroot in threads; the value is the port."""
    app = WsgiDAVApp(
        {
            "provider_mapping": {"/": FilesystemProvider(config["root"], fs_opts={})},
            "simple_dc": {
                "user_mapping": {"*": {config["username"]: {"password": config["password"]}}}
            },
            # Basic and digest credentials are both accepted; digest is what it asks for.
            "http_authenticator": {"accept_basic": True, "accept_digest": True},
            # A folder's URL is for WebDAV alone; no HTML pages.
            "dir_browser": {"enable": False},
            "logging": {"enable": False},
            "verbose": 1,
        }
    )
    server = Server(
        (config["host"], config["port"]),
        refuse_bad_paths(app),
        numthreads=16,
        request_queue_size=128,
        shutdown_timeout=1,
    )
    server.prepare()
    thread = threading.Thread(target=server.serve, name="cheroot", daemon=True)
    thread.start()
    try:
        yield server.bind_addr[1]
    finally:
        server.stop()
        thread.join()


if __name__ == "__main__":
    run(serve)
