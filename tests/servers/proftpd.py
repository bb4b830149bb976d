"""ProFTPD's SFTP server (mod_sftp): SFTP without OpenSSH's ways, as some NAS have it."""

from __future__ import annotations

import grp
import os
import pwd
import subprocess
from typing import Any

from tests.servers.base import ChildServer, missing
from tests.servers.keys import ssh_key

PROFTPD = "/usr/sbin/proftpd"
MODULES = "/usr/lib/proftpd"


class Proftpd(ChildServer):
    """proftpd with mod_sftp on 127.0.0.1; the current user logs in with a generated key."""

    name = "proftpd"
    protocol = "sftp"
    host_key = ""

    def __init__(self) -> None:
        super().__init__()
        self.user = pwd.getpwuid(os.geteuid())

    @classmethod
    def unavailable(cls) -> str | None:
        return missing(PROFTPD, f"{MODULES}/mod_sftp.so", "ssh-keygen", "ps")

    @property
    def root(self):
        return self.folder / "files"

    @property
    def client_key(self):
        """The private key that may log in."""
        return self.folder / "client_key"

    @property
    def options(self) -> dict[str, Any]:
        return {
            "host": self.host,
            "port": self.port,
            "username": self.user.pw_name,
            "key_filename": str(self.client_key),
            "host_key": self.host_key,
            "location": str(self.root),
        }

    def configure(self) -> None:
        folder, user = self.folder, self.user
        if not self.host_key:
            self.host_key = ssh_key(folder / "host_key")
            ssh_key(self.client_key)
            # mod_sftp takes keys in the format of RFC 4716 only.
            exported = subprocess.run(
                ["ssh-keygen", "-e", "-f", str(self.client_key)], capture_output=True, check=True
            ).stdout
            (folder / "authorized").write_bytes(exported)
            passwd = folder / "passwd"
            passwd.write_text(f"{user.pw_name}:*:{user.pw_uid}:{user.pw_gid}::{folder}:/bin/sh\n")
            passwd.chmod(0o600)
        lines = [
            f"ModulePath {MODULES}",
            "LoadModule mod_sftp.c",
            "ServerType standalone",
            f"DefaultAddress {self.host}",
            "UseIPv6 off",
            "SocketBindTight on",
            f"Port {self.port}",
            f"User {user.pw_name}",
            f"Group {grp.getgrgid(user.pw_gid).gr_name}",
            f"PidFile {folder}/proftpd.pid",
            f"ScoreboardFile {folder}/scoreboard",
            f"DelayTable {folder}/delay",
            "WtmpLog off",
            f"AuthUserFile {folder}/passwd",
            "AuthOrder mod_auth_file.c",
            "RequireValidShell off",
            "RootLogin on",
            "UseFtpUsers off",
            "AllowOverwrite on",
            "UseReverseDNS off",
            "MaxInstances 100",
            "Umask 022",
            "SFTPEngine on",
            f"SFTPLog {folder}/sftp.log",
            f"SFTPHostKey {folder}/host_key",
            f"SFTPAuthorizedUserKeys file:{folder}/authorized",
            "SFTPAuthMethods publickey",
        ]
        (folder / "proftpd.conf").write_text("\n".join(lines) + "\n")

    def command(self) -> list[str]:
        return [PROFTPD, "--nodaemon", "--config", str(self.folder / "proftpd.conf")]
