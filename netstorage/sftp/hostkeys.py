"""Which host keys are trusted: pins, and OpenSSH's known_hosts files."""

from __future__ import annotations

import base64
import hmac
from collections.abc import Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from paramiko import PKey
from paramiko.pkey import UnknownKeyType
from paramiko.ssh_exception import SSHException

from ..exceptions import HostKeyError


@dataclass
class TrustedKeys:
    """The keys that one server may show.

    Attributes:
        keys: Public keys.
        fingerprints: ``SHA256:…`` of public keys.
        revoked: Keys that are refused whatever else is said.
        sources: Where all this was looked for, for messages.
    """

    keys: list[PKey] = field(default_factory=list)
    fingerprints: list[str] = field(default_factory=list)
    revoked: list[PKey] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)

    def add_pins(self, pins: Iterable[str]) -> None:
        """Trust what the option ``host_key`` names; see ``parse_pin``."""
        for pin in pins:
            parsed = parse_pin(pin)
            if isinstance(parsed, str):
                self.fingerprints.append(parsed)
            else:
                self.keys.append(parsed)
        self.sources.append("the option host_key")

    def add_known_hosts(self, filename: str, host: str, port: int) -> None:
        """Trust what a known_hosts file says of a server (sshd(8), SSH_KNOWN_HOSTS FILE FORMAT).

        Raises:
            HostKeyError: The file cannot be read.
        """
        path = Path(filename).expanduser()
        name = host.lower() if port == 22 else f"[{host.lower()}]:{port}"
        try:
            lines = path.read_text("utf-8", "replace").splitlines()
        except OSError as error:
            raise HostKeyError(
                f"the option known_hosts names {filename}, which cannot be read: {error.strerror}"
            ) from error
        for line in lines:
            fields = line.split()
            marker = fields.pop(0) if fields and fields[0].startswith("@") else ""
            # Certificates are not checked, and what other markers may mean nobody knows.
            if len(fields) < 3 or fields[0].startswith("#") or marker not in {"", "@revoked"}:
                continue
            if not _names(fields[0], name):
                continue
            try:
                key = _public_key(fields[1], fields[2])
            except ValueError:
                continue
            (self.revoked if marker == "@revoked" else self.keys).append(key)
        self.sources.append(filename)

    @property
    def key_types(self) -> list[str]:
        """Types of the trusted keys, as names of signature algorithms."""
        types: list[str] = []
        for key in self.keys:
            # RSA keys sign with SHA-2 (RFC 8332).
            named = key.get_name()
            types += ["rsa-sha2-512", "rsa-sha2-256"] if named == "ssh-rsa" else [named]
        return list(dict.fromkeys(types))

    def verify(self, key: PKey, server: str) -> None:
        """Refuse a key that is not trusted.

        Raises:
            HostKeyError: Its message shows the key's fingerprint and how to trust it.
        """
        if key in self.revoked:
            raise HostKeyError(
                f"{server} shows the host key {key.get_name()} {key.fingerprint}, which "
                f"{' and '.join(self.sources)} revoke. Do not trust this server."
            )
        if key in self.keys or key.fingerprint in self.fingerprints:
            return
        shown = f"{key.get_name()} {key.fingerprint}"
        remedy = f'host_key="{key.get_name()} {key.get_base64()}"'
        expected = self.fingerprints + [f"{k.get_name()} {k.fingerprint}" for k in self.keys]
        if expected:
            raise HostKeyError(
                f"the host key of {server} is not the one that {' and '.join(self.sources)} trust: "
                f"it shows {shown}, trusted are {', '.join(expected)}. Somebody may be listening "
                f"in. If the server's key was changed on purpose, set {remedy}{self._hint()}"
            )
        looked = f" to {' or '.join(self.sources)}" if self.sources else ""
        raise HostKeyError(
            f"the host key of {server} is not known{looked}: it shows {shown}. Compare this with "
            "`ssh-keygen -lf` of the key file on the server; if it is the same, set the option "
            f"{remedy}"
        )

    def _hint(self) -> str:
        if self.keys or not self.fingerprints:
            return ""
        # The server shows one key of several; only a key itself says which kind to ask for.
        return ". If the fingerprint is of its key of another type, set host_key to that key itself"


def parse_pin(pin: str) -> PKey | str:
    """Read a pin: a public key ("ssh-ed25519 AAAA…") or a fingerprint ("SHA256:…").

    Raises:
        ValueError: It is neither.
    """
    fields = pin.split()
    if len(fields) == 1 and pin.strip().startswith("SHA256:"):
        digest = fields[0].removeprefix("SHA256:").rstrip("=")
        try:
            complete = len(base64.b64decode(digest + "=", validate=True)) == 32
        except ValueError:
            complete = False
        if complete:
            return f"SHA256:{digest}"
    elif len(fields) >= 2:
        return _public_key(fields[0], fields[1])
    raise ValueError(
        f"{pin!r} is no host key: give a line like 'ssh-ed25519 AAAA…' (from ssh-keyscan, without "
        "the host's name) or a fingerprint like 'SHA256:…'"
    )


def _public_key(kind: str, encoded: str) -> PKey:
    try:
        blob = base64.b64decode(encoded, validate=True)
        key = PKey.from_type_string(kind, blob)
        # paramiko fills up with zeros what was cut off.
        if key.asbytes() != blob:
            raise ValueError("it is cut off, or not of this type")  # noqa: TRY301
    except (ValueError, ArithmeticError, LookupError, UnknownKeyType, SSHException) as error:
        raise ValueError(f"'{kind} {encoded}' is no public key: {error}") from error
    return key


def _names(patterns: str, name: str) -> bool:
    """Tell whether the first field of a known_hosts line means a server."""
    found = False
    for pattern in patterns.split(","):
        if pattern.startswith("|1|"):
            found = found or _is_hash_of(pattern, name)
        elif pattern.startswith("!"):
            if _matches(pattern[1:], name):
                return False
        else:
            found = found or _matches(pattern, name)
    return found


def _is_hash_of(hashed: str, name: str) -> bool:
    """Compare a name with ``|1|salt|HMAC-SHA1``, as ssh-keygen -H writes it."""
    try:
        salt, digest = (base64.b64decode(part, validate=True) for part in hashed[3:].split("|"))
        return hmac.digest(salt, name.encode(), "sha1") == digest
    except ValueError:
        return False


def _matches(pattern: str, name: str) -> bool:
    # Brackets are part of a name with a port here, not a set of characters.
    return fnmatchcase(name, pattern.lower().replace("[", "[[]"))
