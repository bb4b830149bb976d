"""OpenSSH's own server, with a configuration and keys of its own."""

from __future__ import annotations

import os
import pwd
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.servers.base import WORKER, ChildServer, as_worker, give_to_worker, missing
from tests.servers.keys import ssh_key

SSHD = "/usr/sbin/sshd"
SFTP_SERVER = "/usr/lib/openssh/sftp-server"


class Sshd(ChildServer):
    """sshd on 127.0.0.1; the user that it runs as logs in with a generated key.

    Clients see the whole file system, so `options` has `location`, the absolute `root`.

    Args:
        extra: Lines before ours in the configuration, such as ``"Ciphers aes128-cbc"``; sshd
            takes the first value that it meets.
        internal: Serve SFTP inside sshd (``internal-sftp``), else by the separate program.
        sftp_arguments: Arguments of the SFTP server, such as ``"-R"`` (read only).
        ordinary: Run as an ordinary user, whom permissions bind, also where the tests are root's.
    """

    name = "sshd"
    protocol = "sftp"

    def __init__(
        self,
        *,
        extra: Sequence[str] = (),
        internal: bool = True,
        sftp_arguments: str = "",
        ordinary: bool = False,
    ) -> None:
        super().__init__()
        self.ordinary = ordinary
        user = pwd.getpwuid(os.geteuid()).pw_name
        self.username = WORKER if ordinary and os.geteuid() == 0 else user
        self.extra = list(extra)
        self.subsystem = f"{'internal-sftp' if internal else SFTP_SERVER} {sftp_arguments}".strip()
        self.host_keys: dict[str, str] = {}
        """Public key lines by kind: ed25519, ecdsa, rsa."""

    @classmethod
    def unavailable(cls) -> str | None:
        reason = missing(SSHD, SFTP_SERVER, "ssh-keygen", "ps")
        if reason is None and os.geteuid() == 0:
            with open("/etc/shadow") as shadow:
                if any(line.startswith("root:!") for line in shadow):
                    reason = "root's account is locked, sshd refuses it"
        return reason

    @property
    def root(self) -> Path:
        return self.folder / "files"

    @property
    def client_key(self) -> Path:
        """The private key that may log in."""
        return self.folder / "client_key"

    @property
    def options(self) -> dict[str, Any]:
        return {
            "host": self.host,
            "port": self.port,
            "username": self.username,
            "key_filename": str(self.client_key),
            "host_key": self.host_keys["ed25519"],
            "location": str(self.root),
        }

    def configure(self) -> None:
        folder = self.folder
        if os.geteuid() == 0:
            # Privilege separation changes its root to this folder; Debian's service makes it.
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        if not self.host_keys:
            for kind in ("ed25519", "ecdsa", "rsa"):
                self.host_keys[kind] = ssh_key(folder / f"host_{kind}", kind)
            public = ssh_key(self.client_key)
            (folder / "authorized_keys").write_text(f"{public}\n")
        lines = [
            *self.extra,
            f"ListenAddress {self.host}:{self.port}",
            *(f"HostKey {folder}/host_{kind}" for kind in self.host_keys),
            f"AuthorizedKeysFile {folder}/authorized_keys",
            f"PidFile {folder}/sshd.pid",
            "AuthenticationMethods publickey",
            "PermitRootLogin prohibit-password",
            "StrictModes no",
            "UsePAM no",
            "UseDNS no",
            "LogLevel INFO",
            f"Subsystem sftp {self.subsystem}",
        ]
        (folder / "sshd_config").write_text("\n".join(lines) + "\n")
        if self.ordinary:
            give_to_worker(folder)

    def command(self) -> list[str]:
        server = [SSHD, "-D", "-e", "-f", str(self.folder / "sshd_config")]
        return [*as_worker(), *server] if self.ordinary else server

    def _answers(self) -> bool:
        # A whole banner, so that the probe is no half-open connection in sshd's count.
        try:
            with socket.create_connection((self.host, self.port), timeout=1) as connection:
                connection.settimeout(5)
                return connection.recv(64).startswith(b"SSH-")
        except OSError:
            return False
