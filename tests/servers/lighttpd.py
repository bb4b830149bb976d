"""lighttpd with mod_webdav."""

from __future__ import annotations

from tests.servers.base import ChildServer, missing

LIGHTTPD = "/usr/sbin/lighttpd"
MOD_WEBDAV = "/usr/lib/lighttpd/mod_webdav.so"

CONFIG = """\
server.modules = ("mod_auth", "mod_authn_file", "mod_webdav")
server.bind = "{host}"
server.port = {port}
server.document-root = "{folder}/www"
server.errorlog = "{folder}/error.log"
server.pid-file = "{folder}/lighttpd.pid"
server.upload-dirs = ("{folder}")
auth.backend = "plain"
auth.backend.plain.userfile = "{folder}/passwords"
$HTTP["url"] =~ "^/dav($|/)" {{
  webdav.activate = "enable"
  webdav.is-readonly = "disable"
  webdav.sqlite-db-name = "{folder}/webdav.db"
  auth.require = ("" => ("method" => "basic", "realm" => "files", "require" => "valid-user"))
}}
"""


class Lighttpd(ChildServer):
    """lighttpd on 127.0.0.1, serving ``/dav/`` with basic authentication."""

    name = "lighttpd"
    protocol = "webdav"

    @classmethod
    def unavailable(cls) -> str | None:
        return missing(LIGHTTPD, MOD_WEBDAV, "ps")

    def configure(self) -> None:
        (self.folder / "passwords").write_text(f"{self.username}:{self.password}\n")
        config = CONFIG.format(host=self.host, port=self.port, folder=self.folder)
        (self.folder / "lighttpd.conf").write_text(config)

    def command(self) -> list[str]:
        return [LIGHTTPD, "-D", "-f", str(self.folder / "lighttpd.conf")]
