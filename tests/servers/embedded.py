"""The servers of `netstorage.testing`, in the shape of the suite's other servers."""

from __future__ import annotations

from typing import Any, ClassVar

from netstorage.testing import EmbeddedServer, SFTPServer, WebDAVServer
from tests.servers.base import Server


class _Embedded(Server):
    server_class: ClassVar[type[EmbeddedServer]]

    def __init__(self) -> None:
        self.server = self.server_class()

    @property
    def root(self):
        return self.server.root

    @property
    def port(self) -> int:
        return self.server.port

    @property
    def process(self):
        return self.server.process

    @property
    def options(self) -> dict[str, Any]:
        return self.server.options

    def start(self):
        self.server.start()
        return self

    def stop(self) -> None:
        self.server.stop()

    def restart(self) -> None:
        self.server.restart()

    def kill(self) -> None:
        self.server.kill()


class EmbeddedSFTP(_Embedded):
    """asyncssh."""

    name = "embedded-sftp"
    protocol = "sftp"
    server_class = SFTPServer


class EmbeddedWebDAV(_Embedded):
    """wsgidav on cheroot."""

    name = "embedded-webdav"
    protocol = "webdav"
    server_class = WebDAVServer
