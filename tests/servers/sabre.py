"""sabre/dav, which stands for Nextcloud and other servers written in PHP."""

from __future__ import annotations

from pathlib import Path

from tests.servers.base import ChildServer, missing

LIBRARY = "/usr/share/php/Sabre/autoload.php"
SCRIPT = Path(__file__).with_name("sabre.php")


class Sabre(ChildServer):
    """sabre/dav on 127.0.0.1, under ``/dav/``.

    PHP's own web server ends each connection after one answer; all else is sabre/dav's doing.
    """

    name = "sabre"
    protocol = "webdav"

    @classmethod
    def unavailable(cls) -> str | None:
        return missing("php", LIBRARY, "ps")

    def command(self) -> list[str]:
        return ["php", "-S", f"{self.host}:{self.port}", str(SCRIPT)]

    def environment(self) -> dict[str, str]:
        return {
            "DAV_ROOT": str(self.root),
            # Not as arguments, which everybody on the machine could read.
            "DAV_USER": self.username,
            "DAV_PASSWORD": self.password,
            "PHP_CLI_SERVER_WORKERS": "8",
        }
