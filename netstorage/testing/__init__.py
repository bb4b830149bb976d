"""Real SFTP and WebDAV servers for tests and demonstrations.

They need the extra ``django-netstorage[testing]``. Each server is a process of its own that
listens on 127.0.0.1 only and serves one folder::

    with SFTPServer() as server:
        storage = SFTPStorage(**server.options)
        storage.save("hello.txt", ContentFile(b"hello"))
        assert (server.root / "hello.txt").read_bytes() == b"hello"

``netstorage.testing.fixtures`` has the same as pytest fixtures.
"""

from netstorage.testing._server import EmbeddedServer, SFTPServer, WebDAVServer

__all__ = ["EmbeddedServer", "SFTPServer", "WebDAVServer"]
