"""Apache behind nginx, which ends TLS or shows another path."""

from __future__ import annotations

from tests.servers.apache import Apache
from tests.servers.nginx import NginxProxy


class _ApacheBehindNginx(NginxProxy):
    """Both programs as one server: they start, stop and restart together."""

    behind_tls = False
    shown_as = "/dav/"

    def __init__(self) -> None:
        super().__init__("", tls=self.behind_tls, prefix=self.shown_as)
        self.apache = Apache()

    @classmethod
    def unavailable(cls) -> str | None:
        return Apache.unavailable() or super().unavailable()

    @property
    def root(self):
        return self.apache.root

    def start(self):
        self.apache.start()
        self.upstream_url, self.upstream_options = self.apache.url, self.apache.options
        return super().start()

    def stop(self) -> None:
        super().stop()
        self.apache.stop()

    def restart(self) -> None:
        self.apache.restart()
        super().restart()

    def kill(self) -> None:
        super().kill()
        self.apache.kill()


class ApacheBehindTLS(_ApacheBehindNginx):
    """nginx speaks HTTPS, and HTTP to Apache, which does not know that."""

    name = "apache-behind-tls"
    behind_tls = True


class ApacheBehindPrefix(_ApacheBehindNginx):
    """nginx shows ``/dav/`` as another path, and changes nothing in headers and answers."""

    name = "apache-behind-prefix"
    shown_as = "/shown/as/"
