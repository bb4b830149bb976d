"""Apache httpd with mod_dav and mod_dav_fs."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from tests.servers.base import ChildServer, as_worker, give_to_worker, missing
from tests.servers.keys import Authority

APACHE = "/usr/sbin/apache2"
MODULES = Path("/usr/lib/apache2/modules")
REALM = "files"


class Apache(ChildServer):
    """httpd on 127.0.0.1, serving ``/dav/``.

    Args:
        auth: How clients authenticate, None for everybody.
        tls: Speak HTTPS; `options` then has `verify`, the certificate of the authority.
        client_certificate: Ask for a client certificate instead of a password (implies `tls`);
            `options` then has `cert`.
        deflate: Compress answers with mod_deflate.
        ordinary: Let permissions bind it, as they bind a server that is installed.
        extra: More lines of configuration, at the level of the server.
    """

    name = "apache"
    protocol = "webdav"

    def __init__(
        self,
        *,
        auth: Literal["basic", "digest"] | None = "basic",
        tls: bool = False,
        client_certificate: bool = False,
        deflate: bool = False,
        ordinary: bool = False,
        extra: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.client_certificate = client_certificate
        self.auth = None if client_certificate else auth
        self.tls = tls or client_certificate
        self.deflate = deflate
        self.ordinary = ordinary
        self.extra = list(extra)

    @classmethod
    def unavailable(cls) -> str | None:
        reason = missing(APACHE, str(MODULES / "mod_dav_fs.so"), "ps")
        if reason is None and os.geteuid() == 0:
            reason = missing("setpriv")
        return reason

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://{self.host}:{self.port}/dav/"

    @property
    def options(self) -> dict[str, Any]:
        options: dict[str, Any] = {"url": self.url}
        if self.auth:
            options |= {"username": self.username, "password": self.password}
        if self.auth == "digest":
            options["auth"] = "digest"
        if self.tls:
            options["verify"] = str(self.folder / "ca.pem")
        if self.client_certificate:
            options["cert"] = str(self.folder / "client.pem")
        return options

    def configure(self) -> None:
        folder = self.folder
        modules = ["mpm_event", "authn_core", "authz_core", "dir", "mime", "dav", "dav_fs"]
        lines = [
            f"ServerName {self.host}",
            f"Listen {self.host}:{self.port}",
            f"PidFile {folder}/apache.pid",
            f"DefaultRuntimeDir {folder}",
            f"ErrorLog {folder}/error.log",
            "LogLevel warn",
            "StartServers 1",
            "TypesConfig /dev/null",
            f"DocumentRoot {folder}/www",
            f"DavLockDB {folder}/locks",
        ]
        access = ["Require all granted"]
        if self.auth == "basic":
            modules += ["authn_file", "authz_user", "auth_basic"]
            digest = base64.b64encode(hashlib.sha1(self.password.encode()).digest()).decode()
            (folder / "passwords").write_text(f"{self.username}:{{SHA}}{digest}\n")
            access = ["AuthType Basic", f"AuthUserFile {folder}/passwords"]
        elif self.auth == "digest":
            modules += ["authn_file", "authz_user", "auth_digest"]
            text = f"{self.username}:{REALM}:{self.password}"
            digest = hashlib.md5(text.encode()).hexdigest()
            (folder / "passwords").write_text(f"{self.username}:{REALM}:{digest}\n")
            access = ["AuthType Digest", f"AuthUserFile {folder}/passwords"]
        if self.auth:
            access += [f'AuthName "{REALM}"', "Require valid-user"]
        if self.tls:
            modules += ["ssl", "socache_shmcb"]
            authority = Authority(folder)
            certificate = authority.issue()
            lines += ["SSLEngine on", f"SSLCertificateFile {certificate}"]
            if self.client_certificate:
                authority.issue("client")
                lines += [f"SSLCACertificateFile {authority.ca}", "SSLVerifyClient require"]
        if self.deflate:
            modules += ["filter", "deflate"]
            lines += ["SetOutputFilter DEFLATE"]
        lines += self.extra
        lines += [f"<Directory {self.root}>", "Dav On", *access, "</Directory>"]
        loads = [f"LoadModule {name}_module {MODULES}/mod_{name}.so" for name in modules]
        (folder / "httpd.conf").write_text("\n".join(loads + lines) + "\n")
        give_to_worker(folder)

    def command(self) -> list[str]:
        # httpd serves no files as root. As a user with root's rights to files it reads and
        # writes what the tests put into its folder, and the tests what it puts there.
        rights = () if self.ordinary else ("dac_override", "dac_read_search", "fowner")
        server = [APACHE, "-DFOREGROUND", "-d", str(self.folder), "-f", "httpd.conf"]
        return [*as_worker(*rights), *server]
