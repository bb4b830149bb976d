"""nginx: a WebDAV server with the module dav_ext, and a proxy in front of one."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.servers.base import ChildServer, missing
from tests.servers.keys import Authority

NGINX = "/usr/sbin/nginx"
DAV_EXT = "/usr/lib/nginx/modules/ngx_http_dav_ext_module.so"


class _Nginx(ChildServer):
    """What both uses of nginx share: a configuration around one `location`."""

    protocol = "webdav"
    tls = False
    client_certificate = False
    modules: Sequence[str] = ()

    def location(self) -> list[str]:
        """The lines of the server's block."""
        raise NotImplementedError

    def configure(self) -> None:
        folder = self.folder
        listen = f"listen {self.host}:{self.port}{' ssl' if self.tls else ''};"
        lines = [*(f"load_module {path};" for path in self.modules)]
        if os.geteuid() == 0:
            # Workers share the tests' user, or neither could change the other's files.
            lines += ["user root;"]
        lines += [
            "daemon off;",
            "worker_processes 1;",
            f"pid {folder}/nginx.pid;",
            f"error_log {folder}/error.log;",
            "events {}",
            "http {",
            "access_log off;",
        ]
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"):
            lines += [f"{kind}_temp_path {folder}/temp-{kind};"]
        lines += ["server {", listen]
        if self.tls:
            authority = Authority(folder)
            certificate = authority.issue()
            lines += [f"ssl_certificate {certificate};", f"ssl_certificate_key {certificate};"]
            if self.client_certificate:
                authority.issue("client")
                lines += [f"ssl_client_certificate {authority.ca};", "ssl_verify_client on;"]
        lines += [*self.location(), "}", "}"]
        (folder / "nginx.conf").write_text("\n".join(lines) + "\n")

    def command(self) -> list[str]:
        folder = str(self.folder)
        return [NGINX, "-p", folder, "-c", "nginx.conf", "-e", f"{folder}/error.log"]


class Nginx(_Nginx):
    """nginx on 127.0.0.1, serving ``/dav/`` with basic authentication.

    Args:
        dav_ext: Answer PROPFIND; without the module nginx refuses it with 405.
        client_max_body_size: Largest upload in bytes, 0 for any; nginx's own default is 1 MiB.
        tls: Speak HTTPS; `options` then has `verify`, the certificate of the authority.
        client_certificate: Ask for a client certificate as well (implies `tls`); `options` then
            has `cert`.
    """

    name = "nginx"

    def __init__(
        self,
        *,
        dav_ext: bool = True,
        client_max_body_size: int = 0,
        tls: bool = False,
        client_certificate: bool = False,
    ) -> None:
        super().__init__()
        self.tls = tls or client_certificate
        self.client_certificate = client_certificate
        self.dav_ext = dav_ext
        self.client_max_body_size = client_max_body_size
        self.modules = [DAV_EXT] if dav_ext else []

    @classmethod
    def unavailable(cls) -> str | None:
        return missing(NGINX, DAV_EXT, "ps")

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://{self.host}:{self.port}/dav/"

    @property
    def options(self) -> dict[str, Any]:
        options = super().options
        if self.tls:
            options["verify"] = str(self.folder / "ca.pem")
        if self.client_certificate:
            options["cert"] = str(self.folder / "client.pem")
        return options

    def location(self) -> list[str]:
        (self.folder / "passwords").write_text(f"{self.username}:{{PLAIN}}{self.password}\n")
        lines = [
            f"client_max_body_size {self.client_max_body_size};",
            f"root {self.folder}/www;",
            "location /dav/ {",
            "dav_methods PUT DELETE MKCOL COPY MOVE;",
            "dav_access user:rw group:r all:r;",
            "create_full_put_path off;",
            "auth_basic files;",
            f"auth_basic_user_file {self.folder}/passwords;",
        ]
        if self.dav_ext:
            lines += ["dav_ext_methods PROPFIND OPTIONS;"]
        return [*lines, "}"]


class NginxPlain(Nginx):
    """nginx as most have it, without dav_ext: it knows no PROPFIND."""

    name = "nginx-plain"

    def __init__(self) -> None:
        super().__init__(dav_ext=False)


class NginxStatic(_Nginx):
    """nginx on 127.0.0.1 that gives the files below `root` to everybody, as its defaults are."""

    name = "nginx-static"

    @classmethod
    def unavailable(cls) -> str | None:
        return missing(NGINX, "ps")

    def location(self) -> list[str]:
        return [f"root {self.folder}/www;", "types { text/plain txt; }"]


class NginxProxy(_Nginx):
    """nginx on 127.0.0.1 in front of another WebDAV server, which has no files of its own.

    Args:
        upstream_url: The other server's URL, with its final slash.
        tls: Speak HTTPS to clients; `options` then has `verify`.
        prefix: The path under which clients see the other server, with both slashes.
        options: The other server's options; all but `url` are passed on.
    """

    name = "nginx-proxy"

    def __init__(
        self,
        upstream_url: str,
        *,
        tls: bool = False,
        prefix: str = "/files/",
        options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.upstream_url = upstream_url
        self.tls = tls
        self.prefix = prefix
        self.upstream_options = dict(options or {})

    @classmethod
    def unavailable(cls) -> str | None:
        return missing(NGINX, "ps")

    @property
    def root(self) -> Path:
        return self.folder / "unused"

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://{self.host}:{self.port}{self.prefix}"

    @property
    def options(self) -> dict[str, Any]:
        options = self.upstream_options | {"url": self.url}
        if self.tls:
            options["verify"] = str(self.folder / "ca.pem")
        return options

    def location(self) -> list[str]:
        return [
            f"location {self.prefix} {{",
            f"proxy_pass {self.upstream_url};",
            "proxy_http_version 1.1;",
            "proxy_set_header Host $http_host;",
            "client_max_body_size 0;",
            "}",
        ]
