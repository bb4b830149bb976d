"""SFTPStorage: files on an SSH server."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from os import fspath
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, ClassVar, cast

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from ..options import (
    COMMON_DEFAULTS,
    COMMON_KINDS,
    FLAG,
    NUMBER,
    PATH,
    SECRET,
    TEXT,
    TEXTS,
    CommonOptions,
    Kind,
)
from ..session import Session
from ..storage import NetworkStorage

try:
    from .confined import ConfinedSession
    from .hostkeys import parse_pin
    from .ssh import SFTPEndpoint
    from .transport import LEGACY_CIPHERS, LEGACY_MACS
except ModuleNotFoundError as error:
    if error.name and error.name.partition(".")[0] == "paramiko":
        raise ImproperlyConfigured(
            'SFTPStorage needs paramiko: pip install "django-netstorage[sftp]"'
        ) from error
    raise

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .session import SFTPSession


class SFTPOptions(CommonOptions, total=False):
    """The options of SFTPStorage, beside the common ones.

    Attributes:
        host: Name or address of the server.
        port: TCP port.
        username: Who logs in; default: who runs the process, as with ssh.
        password: A password, or a callable that returns it.
        key_filename: Path of a private key.
        private_key: Text of a private key, or a callable that returns it.
        passphrase: What the private key is encrypted with, or a callable that returns it.
        known_hosts: Path of a known_hosts file with the server's host key.
        host_key: The server's host key: "ssh-ed25519 AAAA…" or "SHA256:…", or a list of such.
        legacy_algorithms: Weak ciphers and MACs to allow for a server that knows no other.
        file_permissions_mode: Permission bits of new files; default: FILE_UPLOAD_PERMISSIONS.
        directory_permissions_mode: Permission bits of new directories; default:
            FILE_UPLOAD_DIRECTORY_PERMISSIONS.
        confine_links: Whether symbolic links that lead out of ``location`` are refused.
    """

    host: str
    port: int
    username: str | None
    password: str | Callable[[], str] | None
    key_filename: str | PurePath | None
    private_key: str | Callable[[], str] | None
    passphrase: str | Callable[[], str] | None
    known_hosts: str | PurePath | None
    host_key: str | list[str] | tuple[str, ...] | None
    legacy_algorithms: list[str] | tuple[str, ...]
    file_permissions_mode: int | None
    directory_permissions_mode: int | None
    confine_links: bool


class SFTPStorage(NetworkStorage):
    """Keeps files on an SFTP server.

    Takes the options of SFTPOptions, by keyword; NETSTORAGE_SFTP may hold them for all. Without
    ``location`` the root is the directory in which the login begins.
    """

    settings_name = "NETSTORAGE_SFTP"
    required = "host"
    secrets = frozenset({"password", "private_key", "passphrase"})
    defaults: ClassVar[Mapping[str, Any]] = {
        **COMMON_DEFAULTS,
        "host": None,
        "port": 22,
        "username": None,
        "password": None,
        "key_filename": None,
        "private_key": None,
        "passphrase": None,
        "known_hosts": None,
        "host_key": None,
        "legacy_algorithms": (),
        "file_permissions_mode": None,
        "directory_permissions_mode": None,
        "confine_links": False,
    }
    kinds: ClassVar[Mapping[str, Kind]] = {
        **COMMON_KINDS,
        "host": TEXT,
        "username": TEXT,
        "password": SECRET,
        "key_filename": PATH,
        "private_key": SECRET,
        "passphrase": SECRET,
        "known_hosts": PATH,
        "host_key": TEXTS,
        "legacy_algorithms": TEXTS,
        "file_permissions_mode": NUMBER,
        "directory_permissions_mode": NUMBER,
        "confine_links": FLAG,
    }

    if TYPE_CHECKING:

        def __init__(self, **options: Unpack[SFTPOptions]) -> None: ...

    @property
    def file_permissions_mode(self) -> int | None:
        """Permission bits of new files; None: the server's umask decides."""
        value: int | None = self.options["file_permissions_mode"]
        return settings.FILE_UPLOAD_PERMISSIONS if value is None else value

    @property
    def directory_permissions_mode(self) -> int | None:
        """Permission bits of new directories; None: the server's umask decides."""
        value: int | None = self.options["directory_permissions_mode"]
        return settings.FILE_UPLOAD_DIRECTORY_PERMISSIONS if value is None else value

    def _entered(self, session: Session) -> Session:
        if not self.options["confine_links"]:
            return session
        return ConfinedSession(cast("SFTPSession", session), self.location)

    def _endpoint(self) -> SFTPEndpoint:
        options = {f.name: self.options[f.name] for f in fields(SFTPEndpoint)}
        port = options["port"]
        if isinstance(port, bool) or not isinstance(port, int) or not 0 < port < 65536:
            raise ImproperlyConfigured(f"the option 'port' must be a port number, not {port!r}.")
        for name in ("key_filename", "known_hosts"):
            options[name] = fspath(options[name]) if options[name] else None
        for name in ("host_key", "legacy_algorithms"):
            value = options[name] or ()
            options[name] = (value,) if isinstance(value, str) else tuple(value)
        try:
            for pin in options["host_key"]:
                parse_pin(str(pin))
        except ValueError as error:
            raise ImproperlyConfigured(f"the option 'host_key': {error}.") from error
        for name in options["legacy_algorithms"]:
            if name not in (known := LEGACY_CIPHERS + LEGACY_MACS):
                raise ImproperlyConfigured(
                    f"the option 'legacy_algorithms' knows no {name!r}, only {', '.join(known)}."
                )
        return SFTPEndpoint(**options)
