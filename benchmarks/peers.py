"""Ways from Python to a server, all with the same verbs, each used as its documentation says.

A verb that a peer does not have raises NotImplementedError; a peer that is not installed raises
ImportError when it is made. Both are shown as absent.
"""

from __future__ import annotations

import io
import posixpath
import shutil
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote, urlsplit

from .measure import Stopwatch

PIECE = 2**20
"""Bytes that each peer is asked for at a time, where the caller decides."""


class Peer:
    """One client of a server.

    Args:
        options: What netstorage's storage class takes.
    """

    label: ClassVar[str]
    thread_safe: ClassVar[bool] = True
    """Whether threads may use it at once; else whoever measures puts a lock around it."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options

    def connect(self) -> None:
        """From nothing to the first answer."""
        self.exists("no-such-file")

    def exists(self, name: str) -> bool:
        raise NotImplementedError

    def size(self, name: str) -> int:
        raise NotImplementedError

    def modified(self, name: str) -> object:
        raise NotImplementedError

    def save(self, name: str, data: bytes) -> None:
        raise NotImplementedError

    def save_deep(self, name: str, data: bytes) -> None:
        """Save into folders that may be missing."""
        raise NotImplementedError

    def overwrite(self, name: str, data: bytes) -> None:
        raise NotImplementedError

    def read(self, name: str) -> bytes:
        raise NotImplementedError

    def delete(self, name: str) -> None:
        raise NotImplementedError

    def listdir(self, name: str) -> list[str]:
        raise NotImplementedError

    def upload_file(self, path: str, name: str) -> None:
        raise NotImplementedError

    def download_file(self, name: str, path: str) -> None:
        raise NotImplementedError


# --- Django storages ----------------------------------------------------------------------------


def configure_django(**settings: Any) -> None:
    """Set up the least of Django, once in a process."""
    import django
    from django.conf import settings as configured

    if not configured.configured:
        configured.configure(USE_TZ=True, MEDIA_URL="/media/", SECRET_KEY="benchmarks", **settings)
        django.setup()


class DjangoPeer(Peer):
    """Any storage, through Django's Storage API alone."""

    def __init__(self, options: dict[str, Any]) -> None:
        super().__init__(options)
        configure_django()
        self.storage = self.make()

    def make(self, **more: Any) -> Any:
        raise NotImplementedError

    def connect(self) -> None:
        self.storage = self.make()
        self.exists("no-such-file")

    def exists(self, name: str) -> bool:
        return self.storage.exists(name)

    def size(self, name: str) -> int:
        return self.storage.size(name)

    def modified(self, name: str) -> object:
        return self.storage.get_modified_time(name)

    def save(self, name: str, data: bytes) -> None:
        from django.core.files.base import ContentFile

        self.storage.save(name, ContentFile(data))

    save_deep = save

    def read(self, name: str) -> bytes:
        with self.storage.open(name) as file:
            return file.read()

    def delete(self, name: str) -> None:
        self.storage.delete(name)

    def listdir(self, name: str) -> list[str]:
        directories, files = self.storage.listdir(name)
        return [*directories, *files]

    def upload_file(self, path: str, name: str) -> None:
        from django.core.files import File

        with Path(path).open("rb") as local:
            self.storage.save(name, File(local))

    def download_file(self, name: str, path: str) -> None:
        with self.storage.open(name) as file, Path(path).open("wb") as local:
            local.writelines(file.chunks(PIECE))


class NetstorageSFTP(DjangoPeer):
    label = "netstorage"

    def make(self, **more: Any) -> Any:
        from netstorage import SFTPStorage

        return SFTPStorage(**{**self.options, **more})

    def overwrite(self, name: str, data: bytes) -> None:
        from django.core.files.base import ContentFile

        # Storages with equal connection options share their sessions.
        self.make(allow_overwrite=True).save(name, ContentFile(data))


class NetstorageWebDAV(NetstorageSFTP):
    def make(self, **more: Any) -> Any:
        from netstorage import WebDAVStorage

        return WebDAVStorage(**{**self.options, **more})


def django_storages_options(options: dict[str, Any]) -> dict[str, Any]:
    """Translate netstorage's options; the host key is known, as in a real deployment."""
    with tempfile.NamedTemporaryFile("w", suffix="-known_hosts", delete=False) as known:
        known.write(f"[{options['host']}]:{options['port']} {options['host_key']}\n")
    params = {key: options[key] for key in ("port", "username", "key_filename")}
    return {
        "host": options["host"],
        "params": params,
        "root_path": options["location"],
        "known_host_file": known.name,
        # What Django's own storages and netstorage use.
        "file_mode": 0o644,
    }


class DjangoStorages(DjangoPeer):
    label = "django-storages"
    thread_safe = False

    def make(self, **more: Any) -> Any:
        from storages.backends.sftpstorage import SFTPStorage

        return SFTPStorage(**django_storages_options(self.options))


# --- fsspec -------------------------------------------------------------------------------------


class FsspecPeer(Peer):
    """A file system of fsspec."""

    def make(self) -> Any:
        raise NotImplementedError

    def path(self, name: str) -> str:
        return posixpath.join(self.options["location"], name)

    def connect(self) -> None:
        self.fs = self.make()
        self.exists("no-such-file")

    def exists(self, name: str) -> bool:
        return self.fs.exists(self.path(name))

    def size(self, name: str) -> int:
        return self.fs.size(self.path(name))

    def modified(self, name: str) -> object:
        return self.fs.modified(self.path(name))

    def save(self, name: str, data: bytes) -> None:
        self.fs.pipe_file(self.path(name), data)

    def save_deep(self, name: str, data: bytes) -> None:
        self.fs.makedirs(posixpath.dirname(self.path(name)), exist_ok=True)
        self.fs.pipe_file(self.path(name), data)

    overwrite = save

    def read(self, name: str) -> bytes:
        return self.fs.cat_file(self.path(name))

    def delete(self, name: str) -> None:
        self.fs.rm_file(self.path(name))

    def listdir(self, name: str) -> list[str]:
        return self.fs.ls(self.path(name), detail=False)

    def upload_file(self, path: str, name: str) -> None:
        self.fs.put_file(path, self.path(name))

    def download_file(self, name: str, path: str) -> None:
        self.fs.get_file(self.path(name), path)


class Fsspec(FsspecPeer):
    label = "fsspec sftp"
    thread_safe = False

    def make(self) -> Any:
        from fsspec.implementations.sftp import SFTPFileSystem

        return SFTPFileSystem(
            self.options["host"],
            port=self.options["port"],
            username=self.options["username"],
            key_filename=self.options["key_filename"],
            skip_instance_cache=True,
        )

    def delete(self, name: str) -> None:
        self.fs.rm(self.path(name))


class Sshfs(FsspecPeer):
    label = "sshfs (asyncssh)"
    more: ClassVar[dict[str, Any]] = {}

    def make(self) -> Any:
        from sshfs import SSHFileSystem

        return SSHFileSystem(
            self.options["host"],
            port=self.options["port"],
            username=self.options["username"],
            client_keys=[self.options["key_filename"]],
            skip_instance_cache=True,
            **self.more,
        )


class SshfsTuned(Sshfs):
    label = "sshfs (asyncssh), AES-GCM"
    more: ClassVar[dict[str, Any]] = {"encryption_algs": ["aes128-gcm@openssh.com"]}


# --- paramiko -----------------------------------------------------------------------------------


class Paramiko(Peer):
    """paramiko used with care: no Nagle, the fast cipher, writes in flight.

    It writes straight under the final name, without a look at the size: fewer promises than a
    storage's ``save()``.
    """

    label = "paramiko, with care"
    thread_safe = False

    def connect(self) -> None:
        import paramiko

        options = self.options
        sock = socket.create_connection((options["host"], options["port"]))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        transport = paramiko.Transport(sock)
        security = transport.get_security_options()
        fast = [cipher for cipher in security.ciphers if "gcm" in cipher]
        security.ciphers = [*fast, *(c for c in security.ciphers if c not in fast)]
        transport.connect(
            username=options["username"],
            pkey=paramiko.Ed25519Key.from_private_key_file(options["key_filename"]),
        )
        client = paramiko.SFTPClient.from_transport(transport)
        assert client is not None
        self.client = client
        self.exists("no-such-file")

    def path(self, name: str) -> str:
        return posixpath.join(self.options["location"], name)

    def exists(self, name: str) -> bool:
        try:
            self.client.stat(self.path(name))
        except FileNotFoundError:
            return False
        return True

    def size(self, name: str) -> int:
        return self.client.stat(self.path(name)).st_size or 0

    def modified(self, name: str) -> object:
        return self.client.stat(self.path(name)).st_mtime

    def save(self, name: str, data: bytes) -> None:
        with self.client.open(self.path(name), "wx") as file:
            file.set_pipelined()
            file.write(data)

    def save_deep(self, name: str, data: bytes) -> None:
        missing = [name]
        while parent := posixpath.dirname(missing[0]):
            missing.insert(0, parent)
        for folder in missing[:-1]:
            try:
                self.client.mkdir(self.path(folder))
            except OSError:
                if not self.exists(folder):
                    raise
        self.save(name, data)

    def overwrite(self, name: str, data: bytes) -> None:
        with self.client.open(self.path(name), "w") as file:
            file.set_pipelined()
            file.write(data)

    def read(self, name: str) -> bytes:
        with self.client.open(self.path(name), "rb") as file:
            return file.read(2 * PIECE)

    def delete(self, name: str) -> None:
        self.client.remove(self.path(name))

    def listdir(self, name: str) -> list[str]:
        # The one that keeps several READDIRs in flight.
        return [entry.filename for entry in self.client.listdir_iter(self.path(name))]

    def upload_file(self, path: str, name: str) -> None:
        self.client.put(path, self.path(name))

    def download_file(self, name: str, path: str) -> None:
        self.client.get(self.path(name), path)


# --- WebDAV -------------------------------------------------------------------------------------


class Webdav4(Peer):
    label = "webdav4"

    def connect(self) -> None:
        from webdav4.client import Client

        auth = self.options["username"], self.options["password"]
        self.client = Client(self.options["url"], auth=auth)
        self.exists("no-such-file")

    def exists(self, name: str) -> bool:
        return self.client.exists(name)

    def size(self, name: str) -> int:
        return self.client.content_length(name) or 0

    def modified(self, name: str) -> object:
        return self.client.modified(name)

    def save(self, name: str, data: bytes) -> None:
        self.client.upload_fileobj(io.BytesIO(data), name)

    def save_deep(self, name: str, data: bytes) -> None:
        folder = ""
        for part in posixpath.dirname(name).split("/"):
            folder = posixpath.join(folder, part)
            if not self.client.exists(folder):
                self.client.mkdir(folder)
        self.save(name, data)

    def overwrite(self, name: str, data: bytes) -> None:
        self.client.upload_fileobj(io.BytesIO(data), name, overwrite=True)

    def read(self, name: str) -> bytes:
        into = io.BytesIO()
        self.client.download_fileobj(name, into)
        return into.getvalue()

    def delete(self, name: str) -> None:
        self.client.remove(name)

    def listdir(self, name: str) -> list[str]:
        return self.client.ls(f"{name}/", detail=False)

    def upload_file(self, path: str, name: str) -> None:
        self.client.upload_file(path, name)

    def download_file(self, name: str, path: str) -> None:
        self.client.download_file(name, path)


class Webdavclient3(Peer):
    label = "webdavclient3"

    def connect(self) -> None:
        from webdav3.client import Client

        url = urlsplit(self.options["url"])
        options = {
            "webdav_hostname": f"{url.scheme}://{url.netloc}",
            "webdav_root": url.path,
            "webdav_login": self.options["username"],
            "webdav_password": self.options["password"],
        }
        self.client = Client(options)
        # Its looks before each verb cost requests, and fail for the root on Apache and nginx.
        self.unchecked = Client({**options, "disable_check": True})
        self.exists("no-such-file")

    def exists(self, name: str) -> bool:
        return self.client.check(name)

    def size(self, name: str) -> int:
        return int(self.unchecked.info(name)["size"])

    def modified(self, name: str) -> object:
        return self.unchecked.info(name)["modified"]

    def save(self, name: str, data: bytes) -> None:
        self.unchecked.upload_to(io.BytesIO(data), name)

    def save_deep(self, name: str, data: bytes) -> None:
        folder = ""
        for part in posixpath.dirname(name).split("/"):
            folder = posixpath.join(folder, part)
            self.unchecked.mkdir(folder)
        self.save(name, data)

    overwrite = save

    def read(self, name: str) -> bytes:
        into = io.BytesIO()
        self.unchecked.download_from(into, name)
        return into.getvalue()

    def delete(self, name: str) -> None:
        self.unchecked.clean(name)

    def listdir(self, name: str) -> list[str]:
        return self.unchecked.list(f"{name}/")

    def upload_file(self, path: str, name: str) -> None:
        self.unchecked.upload_file(name, path)

    def download_file(self, name: str, path: str) -> None:
        self.unchecked.download_file(name, path)


class Requests(Peer):
    """HTTP without a WebDAV library: one request for each verb, no promises."""

    label = "requests"

    def connect(self) -> None:
        import requests

        self.http = requests.Session()
        self.http.auth = self.options["username"], self.options["password"]
        self.exists("no-such-file")

    def ask(self, method: str, name: str, **more: Any) -> Any:
        response = self.http.request(method, self.options["url"] + quote(name), **more)
        response.raise_for_status()
        return response

    def exists(self, name: str) -> bool:
        return self.http.head(self.options["url"] + quote(name)).ok

    def size(self, name: str) -> int:
        return int(self.ask("HEAD", name).headers["Content-Length"])

    def modified(self, name: str) -> object:
        return self.ask("HEAD", name).headers["Last-Modified"]

    def save(self, name: str, data: bytes) -> None:
        self.ask("PUT", name, data=data)

    overwrite = save

    def save_deep(self, name: str, data: bytes) -> None:
        folder = ""
        for part in posixpath.dirname(name).split("/"):
            folder = posixpath.join(folder, part)
            self.ask("MKCOL", f"{folder}/")
        self.save(name, data)

    def read(self, name: str) -> bytes:
        return self.ask("GET", name).content

    def delete(self, name: str) -> None:
        self.ask("DELETE", name)

    def listdir(self, name: str) -> list[str]:
        from xml.etree.ElementTree import fromstring

        tree = fromstring(self.ask("PROPFIND", f"{name}/", headers={"Depth": "1"}).content)
        return [href.text or "" for href in tree.iter("{DAV:}href")]

    def upload_file(self, path: str, name: str) -> None:
        with Path(path).open("rb") as local:
            self.ask("PUT", name, data=local)

    def download_file(self, name: str, path: str) -> None:
        with self.ask("GET", name, stream=True) as response, Path(path).open("wb") as local:
            shutil.copyfileobj(response.raw, local, PIECE)


SFTP: dict[str, type[Peer]] = {
    peer.label: peer
    for peer in (NetstorageSFTP, DjangoStorages, Fsspec, Sshfs, SshfsTuned, Paramiko)
}
WEBDAV: dict[str, type[Peer]] = {
    peer.label: peer for peer in (NetstorageWebDAV, Webdav4, Webdavclient3, Requests)
}


def make(label: str, options: dict[str, Any]) -> Peer:
    """The peer of this name for a server, with its libraries imported."""
    return (WEBDAV if "url" in options else SFTP)[label](options)


# Called in child processes. This module imports no server of the suite, which would make Python's
# start look slow.


def download(label: str, options: dict[str, Any], name: str, path: str) -> dict[str, float]:
    """Time one download, after imports and login."""
    return _timed(label, options, lambda peer: peer.download_file(name, path))


def upload(label: str, options: dict[str, Any], name: str, path: str) -> dict[str, float]:
    """Time one upload, after imports and login."""
    return _timed(label, options, lambda peer: peer.upload_file(path, name))


def _timed(label: str, options: dict[str, Any], copy: Callable[[Peer], None]) -> dict[str, float]:
    peer = make(label, options)
    peer.connect()
    with Stopwatch() as watch:
        copy(peer)
    return {"wall": watch.wall, "cpu": watch.cpu}
