"""Which host keys are trusted: the forms of pins and of known_hosts files."""

from __future__ import annotations

import base64
import string
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from paramiko import ECDSAKey, PKey, RSAKey

from netstorage.exceptions import HostKeyError
from netstorage.sftp.hostkeys import TrustedKeys, parse_pin

ED25519 = "AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl"
OTHER = "AAAAC3NzaC1lZDI1NTE5AAAAICVOhyGGxCCm5UeoPHi2r2Kp/1ZrbhbkIYjwEOBGzCTd"
LINE = f"ssh-ed25519 {ED25519}"
FINGERPRINT = "SHA256:+DiY3wvvV6TuJJhbpZisF/zLDA0zPMSvHdkr4UvCOqU"  # GitHub's, as it tells


def key(encoded: str = ED25519) -> PKey:
    parsed = parse_pin(f"ssh-ed25519 {encoded}")
    assert isinstance(parsed, PKey)
    return parsed


def known(tmp_path: Path, text: str | bytes, host: str = "example.com", port: int = 22):
    path = tmp_path / "known_hosts"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    trusted = TrustedKeys()
    trusted.add_known_hosts(str(path), host, port)
    return trusted


# --- pins ---------------------------------------------------------------------------------------


def test_a_pin_is_a_key_or_a_fingerprint():
    assert key().get_base64() == ED25519
    assert key().fingerprint == FINGERPRINT
    assert parse_pin(FINGERPRINT) == FINGERPRINT
    assert parse_pin(f" {FINGERPRINT}=\n") == FINGERPRINT
    assert parse_pin(f"\t{LINE}   a comment, with words \n") == key()


def test_pins_of_every_kind_of_key():
    for pkey in (ECDSAKey.generate(bits=256), ECDSAKey.generate(bits=521), RSAKey.generate(1024)):
        line = f"{pkey.get_name()} {pkey.get_base64()}"
        assert parse_pin(line) == PKey.from_type_string(pkey.get_name(), pkey.asbytes())
        assert parse_pin(pkey.fingerprint) == pkey.fingerprint


@pytest.mark.parametrize(
    "pin",
    [
        "",
        " \n",
        "SHA256:",
        "SHA256:=",
        FINGERPRINT[:-1],
        FINGERPRINT + "A",
        FINGERPRINT.lower(),
        FINGERPRINT.replace("+", "-"),
        f"{FINGERPRINT} comment",
        "SHA256:" + "ü" * 43,
        "ssh-ed25519",
        ED25519,
        f"ssh-ed25519 {ED25519[:-4]}",
        f"ssh-ed25519 {ED25519}AAAA",
        f"ssh-ed25519 {ED25519[:-1]}",
        f"ssh-ed25519 {ED25519}ü",
        f"ssh-rsa {ED25519}",
        f"ecdsa-sha2-nistp256 {ED25519}",
        f"ssh-dss {ED25519}",
        f"ssh-ed25519-cert-v01@openssh.com {ED25519}",
        f"example.com ssh-ed25519 {ED25519}",
        f"ssh-ed25519{ED25519}",
        "-----BEGIN OPENSSH PRIVATE KEY-----",
    ],
)
def test_what_is_no_pin(pin):
    with pytest.raises(ValueError, match=r"is no (host|public) key"):
        parse_pin(pin)


text = st.text(st.characters(codec="utf-8"), max_size=200)
base64_text = st.binary(max_size=120).map(lambda data: base64.b64encode(data).decode())
kinds = st.sampled_from(
    ["ssh-ed25519", "ssh-rsa", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521"]
)


def packed(*fields: bytes) -> bytes:
    return b"".join(struct.pack(">I", len(field)) + field for field in fields)


@st.composite
def near_keys(draw) -> str:
    """A key's line with fields that look right and hold anything."""
    kind = draw(kinds)
    curve = kind.rpartition("-")[2].encode()
    inside = [kind.encode(), *([curve] if kind.startswith("ecdsa") else [])]
    inside += draw(st.lists(st.binary(max_size=70), max_size=3))
    blob = packed(*inside) + draw(st.binary(max_size=3))
    return f"{kind} {base64.b64encode(blob).decode()}"


@given(st.one_of(text, near_keys(), st.builds("{} {}".format, kinds, base64_text), base64_text))
@example("ecdsa-sha2-nistp256 " + base64.b64encode(packed(b"ssh-ed25519", b"")).decode())
@example("ssh-rsa " + base64.b64encode(packed(b"ssh-rsa", b"", b"")).decode())
@example("ssh-rsa " + base64.b64encode(packed(b"ssh-rsa", b"\xff", b"\xff")).decode())
@example("SHA256:" + "A" * 43)
def test_a_pin_is_read_or_refused(pin):
    """Whatever it is: a key, a fingerprint, or a ValueError."""
    try:
        parsed = parse_pin(pin)
    except ValueError:
        return
    if isinstance(parsed, str):
        assert parsed.startswith("SHA256:")
        assert len(parsed) == 50
    else:
        assert parsed.get_base64() == pin.split()[1]
    # Nobody's key is trusted by it but its own.
    trusted = TrustedKeys()
    trusted.add_pins([pin])
    with pytest.raises(HostKeyError):
        trusted.verify(key(OTHER), "sftp://example.com")


# --- known_hosts --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "host", "port", "named"),
    [
        ("example.com", "example.com", 22, True),
        ("example.com", "EXAMPLE.com", 22, True),
        ("EXAMPLE.COM", "example.com", 22, True),
        ("example.com", "example.com", 2222, False),
        ("[example.com]:2222", "example.com", 2222, True),
        ("[example.com]:2222", "example.com", 22, False),
        ("[example.com]:22", "example.com", 22, False),
        ("other,example.com,10.0.0.1", "10.0.0.1", 22, True),
        ("other,,example.com,", "example.com", 22, True),
        ("example.com.evil.org", "example.com", 22, False),
        ("evil-example.com", "example.com", 22, False),
        ("::1", "::1", 22, True),
        ("[::1]:2222", "::1", 2222, True),
        ("*", "example.com", 22, True),
        ("*", "example.com", 2222, True),
        ("*.example.com", "files.example.com", 22, True),
        ("*.example.com", "example.com", 22, False),
        ("?xample.com", "example.com", 22, True),
        ("?example.com", "example.com", 22, False),
        ("[*]:2222", "example.com", 2222, True),
        ("[*.com]:*", "example.com", 2222, True),
        # Brackets are no set of characters, as they are in a shell.
        ("[e]xample.com", "example.com", 22, False),
        ("exampl[a-z].com", "example.com", 22, False),
        ("example.com,!example.com", "example.com", 22, False),
        ("!example.com,example.com", "example.com", 22, False),
        ("*,!*.example.com", "files.example.com", 22, False),
        ("*,!*.example.com", "example.com", 22, True),
        ("!other.com", "example.com", 22, False),
        ("!", "example.com", 22, False),
        ("#example.com", "example.com", 22, False),
        ("#other,example.com", "example.com", 22, False),
        ("|1|", "example.com", 22, False),
        ("|1||", "example.com", 22, False),
        ("|1|a|b", "example.com", 22, False),
        ("|1|!!!!|!!!!", "example.com", 22, False),
        ("|1|üüüü|AAAA", "example.com", 22, False),
        ("|1|AAAA|AAAA|AAAA", "example.com", 22, False),
        ("|2|AAAA|AAAA", "example.com", 22, False),
        ("|1|garbage,example.com", "example.com", 22, True),
    ],
)
def test_which_lines_mean_a_server(tmp_path, names, host, port, named):
    trusted = known(tmp_path, f"{names} {LINE}\n", host, port)
    assert trusted.keys == ([key()] if named else [])


@pytest.mark.parametrize("port", [22, 2222])
def test_hashed_names(tmp_path, port):
    """Those of ssh-keygen itself."""
    name = "example.com" if port == 22 else f"[example.com]:{port}"
    path = tmp_path / "known_hosts"
    path.write_text(f"{name} {LINE}\n")
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", path], check=True, capture_output=True)
    text = path.read_text()
    assert text.startswith("|1|")
    assert known(tmp_path, text, "example.com", port).keys == [key()]
    assert known(tmp_path, text, "example.org", port).keys == []
    assert known(tmp_path, text, "example.com", 23).keys == []
    for cut in range(len(text)):
        assert known(tmp_path, text[:cut] + text[cut + 1 :]).keys in ([], [key()])


@pytest.mark.parametrize(
    ("line", "keys", "revoked"),
    [
        (f"example.com {LINE}", 1, 0),
        (f"  example.com\t{LINE} # comment", 1, 0),
        (f"\ufeffexample.com {LINE}", 0, 0),
        (f"@revoked example.com {LINE}", 0, 1),
        (f"@revoked * {LINE}", 0, 1),
        (f"@revoked other {LINE}", 0, 0),
        (f"@cert-authority example.com {LINE}", 0, 0),
        (f"@REVOKED example.com {LINE}", 0, 0),
        (f"@unheard-of example.com {LINE}", 0, 0),
        (f"@ example.com {LINE}", 0, 0),
        ("@revoked", 0, 0),
        ("@", 0, 0),
        ("example.com", 0, 0),
        ("example.com ssh-ed25519", 0, 0),
        (f"example.com {ED25519}", 0, 0),
        (f"example.com ssh-rsa {ED25519}", 0, 0),
        (f"example.com ssh-ed25519 {ED25519[:-8]}", 0, 0),
        ("example.com 1024 35 1234567890", 0, 0),  # of SSH 1
        ("", 0, 0),
        ("\0", 0, 0),
    ],
)
def test_lines(tmp_path, line, keys, revoked):
    trusted = known(tmp_path, f"{line}\n")
    assert (len(trusted.keys), len(trusted.revoked)) == (keys, revoked)
    # A line that cannot be read takes no other with it.
    trusted = known(tmp_path, f"{line}\r\nexample.com ssh-ed25519 {OTHER}\r\n{line}")
    assert key(OTHER) in trusted.keys


def test_a_file_that_is_no_text(tmp_path):
    noise = bytes(range(256)) * 40
    trusted = known(tmp_path, noise + f"\nexample.com {LINE}\n".encode() + noise)
    assert trusted.keys == [key()]


fields = st.one_of(
    st.sampled_from(["example.com", "*", "!*", "|1|", "@revoked", "@", "#", "[", LINE, ED25519]),
    st.text(string.printable, max_size=20),
    base64_text,
    st.builds("|1|{}|{}".format, base64_text, base64_text),
    near_keys(),
)
lines = st.lists(st.lists(fields, max_size=5).map(" ".join), max_size=5).map("\n".join)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(lines.map(str.encode), st.binary(max_size=300)), st.sampled_from([22, 2222]))
@example(f"|1| {LINE}".encode(), 22)
@example(f"|1|AAAA|AAAA {LINE}".encode(), 22)
def test_any_file_is_read(tmp_path, content, port):
    """It never fails, and trusts no key that is not in it."""
    trusted = known(tmp_path, content, port=port)
    assert key(OTHER) not in trusted.keys
    with pytest.raises(HostKeyError):
        trusted.verify(key(OTHER), "sftp://example.com")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.text(string.ascii_letters + string.digits + "-.*?[]!|,", max_size=12), max_size=4),
    st.from_regex(r"[a-z0-9.-]{1,20}", fullmatch=True),
)
def test_a_negation_always_wins(tmp_path, patterns, host):
    names = ",".join([*patterns, host, f"!{host}"])
    assert known(tmp_path, f"{names} {LINE}\n", host).keys == []


# --- the verdict --------------------------------------------------------------------------------


def test_revoked_wins_over_everything(tmp_path):
    trusted = known(tmp_path, f"example.com {LINE}\n@revoked * {LINE}\n")
    trusted.add_pins([LINE, FINGERPRINT])
    with pytest.raises(HostKeyError, match="revoke"):
        trusted.verify(key(), "sftp://example.com")


def test_several_keys_of_one_kind(tmp_path):
    """As while a server's key is being replaced."""
    trusted = known(tmp_path, f"example.com {LINE}\nexample.com ssh-ed25519 {OTHER}\n")
    trusted.verify(key(), "sftp://example.com")
    trusted.verify(key(OTHER), "sftp://example.com")
    assert trusted.key_types == ["ssh-ed25519"]


def test_the_kinds_to_ask_for(tmp_path):
    rsa, ecdsa = RSAKey.generate(1024), ECDSAKey.generate()
    trusted = TrustedKeys()
    trusted.add_pins([f"{k.get_name()} {k.get_base64()}" for k in (rsa, ecdsa, key(), rsa)])
    assert trusted.key_types == [
        "rsa-sha2-512",
        "rsa-sha2-256",
        "ecdsa-sha2-nistp256",
        "ssh-ed25519",
    ]


def test_what_the_errors_tell(tmp_path):
    trusted = TrustedKeys()
    with pytest.raises(HostKeyError) as caught:
        trusted.verify(key(), "sftp://example.com:22")
    for told in ("sftp://example.com:22", FINGERPRINT, f'host_key="{LINE}"', "ssh-keygen -lf"):
        assert told in str(caught.value)

    trusted = known(tmp_path, "")
    with pytest.raises(HostKeyError, match=r"is not known to .*known_hosts"):
        trusted.verify(key(), "sftp://example.com")

    trusted = known(tmp_path, f"example.com ssh-ed25519 {OTHER}")
    trusted.add_pins(["SHA256:" + "A" * 43])
    with pytest.raises(HostKeyError) as caught:
        trusted.verify(key(), "sftp://example.com")
    for told in (FINGERPRINT, key(OTHER).fingerprint, "SHA256:AAAA", "known_hosts", "host_key"):
        assert told in str(caught.value)
