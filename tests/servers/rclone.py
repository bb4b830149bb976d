"""rclone's WebDAV and SFTP servers, which stand for the many servers written in Go."""

from __future__ import annotations

from typing import Any

from tests.servers.base import ChildServer, missing
from tests.servers.keys import ssh_key


class _Rclone(ChildServer):
    @classmethod
    def unavailable(cls) -> str | None:
        return missing("rclone", "ssh-keygen", "ps")

    def command(self) -> list[str]:
        return [
            "rclone",
            "serve",
            self.protocol,
            str(self.root),
            f"--addr={self.host}:{self.port}",
            "--vfs-cache-mode=off",
            # Files that the tests put on the disk are seen at once.
            "--dir-cache-time=0",
            "--log-level=NOTICE",
        ]

    def environment(self) -> dict[str, str]:
        # Not as arguments, which everybody on the machine could read.
        return {
            "RCLONE_USER": self.username,
            "RCLONE_PASS": self.password,
            "RCLONE_CONFIG": "/dev/null",
        }


class RcloneWebDAV(_Rclone):
    """``rclone serve webdav`` on 127.0.0.1, under ``/dav/``."""

    name = "rclone-webdav"
    protocol = "webdav"

    def command(self) -> list[str]:
        return [*super().command(), "--baseurl=/dav"]


class RcloneSFTP(_Rclone):
    """``rclone serve sftp`` on 127.0.0.1, with a password."""

    name = "rclone-sftp"
    protocol = "sftp"
    host_key = ""

    def configure(self) -> None:
        if not self.host_key:
            self.host_key = ssh_key(self.folder / "host_key")

    def command(self) -> list[str]:
        return [*super().command(), f"--key={self.folder}/host_key"]

    @property
    def options(self) -> dict[str, Any]:
        return {
            "host": self.host,
            "port": self.port,
            "username": self.username,
            "password": self.password,
            "host_key": self.host_key,
        }
