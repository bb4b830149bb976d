"""SFTP answers that nobody would make up: a right result or one of our errors, and nothing else.

What a server says is put into a channel of paramiko's that was never opened, and then it hangs up,
so no example waits.
"""

from __future__ import annotations

import io
import itertools
import struct
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import paramiko
import pytest
from hypothesis import given, note, settings
from hypothesis import strategies as st

from netstorage.exceptions import ConnectionLost, NetStorageError, ProtocolError
from netstorage.session import Entry, Stat
from netstorage.sftp import frames as w
from netstorage.sftp.frames import Attributes, Body, StatusError
from netstorage.sftp.session import SFTPSession
from netstorage.sftp.wire import MAX_FRAME, Wire
from tests.servers.scripted import OPENSSH, attributes, data, frame, names, status, string, version

SERVER = "sftp://fuzzed:22"
NONE = {name: v for name, v in OPENSSH.items() if not name.startswith(b"limits")}


class Line(paramiko.Channel):
    """A channel whose other end said something and hung up."""

    def __init__(self) -> None:
        super().__init__(0)

    def send(self, s: Any) -> int:
        return len(s)

    def get_transport(self) -> Any:
        return SimpleNamespace(sock=None)


def wire_hearing(said: bytes) -> Wire:
    line = Line()
    wire = Wire(line, 1, SERVER)
    line.in_buffer.feed(said)
    line.in_buffer.close()
    return wire


# What servers send, nearly: every field may be an odd one, and a length may be another's.

UINT = st.one_of(st.integers(0, 40), st.integers(0, 2**32 - 1))
BYTES = st.binary(max_size=40)
NAMES = st.one_of(st.sampled_from([b"a", b"..", b"a/b", b"x\0y", b"", b"\xff"]), BYTES)
ATTRIBUTES = st.one_of(
    st.builds(
        attributes,
        st.none() | st.integers(0, 2**64 - 1),
        st.none() | st.sampled_from([0o100644, 0o40755, 0o120777]) | UINT,
        st.none() | st.tuples(UINT, UINT),
    ),
    st.builds(lambda flags, rest: struct.pack(">I", flags) + rest, UINT, BYTES),
)
KINDS = st.sampled_from([w.STATUS, w.HANDLE, w.DATA, w.NAME, w.ATTRS, w.EXTENDED_REPLY])


def answers(number: int) -> st.SearchStrategy[bytes]:
    """Answers to the request of this number."""
    return st.one_of(
        st.builds(status, st.just(number), st.integers(0, 25) | UINT, BYTES),
        st.builds(data, st.just(number), BYTES),
        st.builds(lambda h: frame(w.HANDLE, number, string(h)), BYTES),
        st.builds(lambda a: frame(w.ATTRS, number, a), ATTRIBUTES),
        st.builds(names, st.just(number), st.lists(st.tuples(NAMES, ATTRIBUTES), max_size=5)),
        st.builds(lambda kind, body: frame(kind, number, body), KINDS | st.integers(0, 255), BYTES),
    )


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """Bytes of which some were changed, cut out or added."""
    said = bytearray(whole)
    for _ in range(draw(st.integers(0, 2))):
        start = draw(st.integers(0, len(said)))
        said[start : draw(st.integers(start, min(start + 8, len(said))))] = draw(
            st.binary(max_size=8)
        )
    return bytes(said)


@st.composite
def dialogues(draw: st.DrawFn, most: int) -> bytes:
    """Answers to the first requests of a session, in their order or nearly so."""
    numbers = list(range(1, draw(st.integers(1, most)) + 1))
    if draw(st.booleans()):
        numbers = draw(st.permutations(numbers))
    return draw(damaged(b"".join(draw(answers(number)) for number in numbers)))


ASK = {
    "status": (lambda wire: wire.status(wire.request(w.REMOVE, b"")), type(None)),
    "handle": (lambda wire: wire.handle(wire.request(w.OPEN, b"")), bytes),
    "attributes": (lambda wire: wire.attributes(wire.request(w.STAT, b"")), Attributes),
    "names": (lambda wire: wire.names(wire.request(w.READDIR, b"")), (list, type(None))),
    "extended": (lambda wire: wire.extended(wire.request_extended("x")), bytes),
}


@settings(max_examples=300)
@given(said=st.one_of(dialogues(1), st.binary(max_size=100)))
def test_an_answer_is_understood_or_refused(said):
    """Whatever was asked: making answers up takes longer than reading them."""
    for what, (ask, kind) in ASK.items():
        note(what)
        wire = wire_hearing(said)
        try:
            result = ask(wire)
        except (ProtocolError, ConnectionLost):
            # What went wrong once is no base for more.
            assert not wire.stream.usable
            with pytest.raises((ProtocolError, ConnectionLost)):
                ask(wire)
        except StatusError as error:
            assert error.code != w.OK
        else:
            assert isinstance(result, kind)


@settings(max_examples=300)
@given(
    said=st.one_of(dialogues(1), st.binary(max_size=100)),
    offset=st.integers(0, 2**63),
    length=st.integers(1, 60),
)
def test_data_is_never_more_than_was_asked_for(said, offset, length):
    wire = wire_hearing(said)
    got: list[tuple[int, bytes]] = []
    request = wire.request_read(
        b"h", offset, length, lambda at, piece: got.append((at, bytes(piece)))
    )
    try:
        count = wire.data(request)
    except (ProtocolError, ConnectionLost, StatusError):
        pass
    else:
        assert sum(len(piece) for _, piece in got) == count
    assert all(offset <= at and at + len(piece) <= offset + length for at, piece in got)


@settings(max_examples=300)
@given(st.one_of(damaged(version(3, OPENSSH)), st.binary(max_size=100)))
def test_a_start_is_understood_or_refused(said):
    with suppress(ProtocolError, ConnectionLost):
        wire_hearing(said).start()


@given(st.binary(max_size=200))
def test_attributes_are_read_or_refused(body):
    try:
        found = Body(body, ProtocolError).attributes()
    except ProtocolError:
        return
    assert found.size is None or 0 <= found.size < 2**63


WORK = {
    "stat": lambda session: session.stat("a/b"),
    "listdir": lambda session: session.listdir("a"),
    "read": lambda session: session.read("a/b", 0, 100, lambda at, piece: None),
    "read-all": lambda session: session.read("a/b", 5, None, lambda at, piece: None),
    "write": lambda session: session.write("a/b", io.BytesIO(b"content"), 7, 0o644, 0o755),
    "rename": lambda session: session.rename("a/b", "a/c"),
    "replace": lambda session: session.replace("a/b", "a/c"),
    "remove": lambda session: session.remove("a/b"),
}


@settings(max_examples=200)
@given(said=dialogues(8))
def test_a_verb_does_it_or_says_why_not(said):
    """Nothing but what the session's contract names comes out of it."""
    for verb, software in itertools.product(WORK, ["OpenSSH_9.2", "rclone/"]):
        note(f"{verb} on {software}")
        does_it_or_says_why_not(verb, software, said)


def does_it_or_says_why_not(verb: str, software: str, said: bytes) -> None:
    wire = wire_hearing(version(3, NONE) + said)
    wire.start()
    transport = SimpleNamespace(remote_version=f"SSH-2.0-{software}")
    session = SFTPSession(transport, wire)  # type: ignore[arg-type]
    try:
        result = WORK[verb](session)
    except (OSError, NetStorageError):
        return
    if verb in {"stat", "read", "read-all"}:
        assert isinstance(result, Stat)
    elif verb == "listdir":
        assert all(isinstance(entry, Entry) and "/" not in entry.name for entry in result)


@pytest.mark.parametrize("length", [MAX_FRAME + 6, 2**31, 2**32 - 1])
def test_no_memory_is_taken_for_what_is_announced(length):
    wire = wire_hearing(struct.pack(">IBI", length, w.DATA, 1))
    with pytest.raises(ProtocolError, match=f"announced a packet of {length} bytes"):
        wire.extended(wire.request_extended("x"))
