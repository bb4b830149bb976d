"""Real servers for the contract suite, all in one shape (`tests.servers.base.Server`)."""

from __future__ import annotations

import posixpath
import secrets
from typing import TYPE_CHECKING, Any

from tests.servers.apache import Apache
from tests.servers.base import Server
from tests.servers.docker import DockerApache, DockerSshd
from tests.servers.embedded import EmbeddedSFTP, EmbeddedWebDAV
from tests.servers.lighttpd import Lighttpd
from tests.servers.nginx import Nginx, NginxPlain
from tests.servers.proftpd import Proftpd
from tests.servers.proxied import ApacheBehindPrefix, ApacheBehindTLS
from tests.servers.rclone import RcloneSFTP, RcloneWebDAV
from tests.servers.sabre import Sabre
from tests.servers.sshd import Sshd

if TYPE_CHECKING:
    from netstorage import SFTPStorage, WebDAVStorage

SERVERS: dict[str, type[Server]] = {
    factory.name: factory
    for factory in (
        EmbeddedSFTP,
        EmbeddedWebDAV,
        Sshd,
        Apache,
        Nginx,
        NginxPlain,
        Lighttpd,
        Sabre,
        RcloneWebDAV,
        RcloneSFTP,
        Proftpd,
        ApacheBehindTLS,
        ApacheBehindPrefix,
        DockerSshd,
        DockerApache,
    )
}
SFTP = [name for name, factory in SERVERS.items() if factory.protocol == "sftp"]
WEBDAV = [name for name, factory in SERVERS.items() if factory.protocol == "webdav"]


def fresh_location(server: Server) -> str:
    """A location below the server's that nobody uses; the folder does not exist yet."""
    return posixpath.join(server.options.get("location", ""), f"test-{secrets.token_hex(4)}")


def make_storage(server: Server, **options: Any) -> SFTPStorage | WebDAVStorage:
    """A storage of the right class on a server.

    Args:
        server: A running server.
        options: Options that win over the server's own.
    """
    from netstorage import SFTPStorage, WebDAVStorage

    storage_class = SFTPStorage if server.protocol == "sftp" else WebDAVStorage
    return storage_class(**{**server.options, "base_url": "/media/", **options})
