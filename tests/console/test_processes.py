"""The command as a process: its status, Ctrl-C, servers that go away, pipes that close, a bar."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time

import pytest
from django.conf import settings
from django.core.files.base import ContentFile, File
from django.core.files.storage import Storage

from netstorage.management.commands.netstorage import SUBCOMMANDS
from tests.console.conftest import PATIENCE, over_sftp
from tests.contract.helpers import remove_temporaries
from tests.contract.relay import Relay

FEW_SERVERS = True

LARGE = 64 * 2**20


@pytest.fixture
def large(tmp_path):
    """A large file on this machine, which takes no room."""
    path = tmp_path / "large.bin"
    with path.open("wb") as file:
        file.truncate(LARGE)
    return path


def through(relay, nas):
    """The settings of a process that meets the server by way of the relay."""
    options = {**relay.options, "location": nas.options["location"]}
    entry = {"BACKEND": f"netstorage.{type(nas).__name__}", "OPTIONS": options}
    return {"nas": entry}


def test_status_and_streams(manage, nas, tmp_path):
    (tmp_path / "a").write_text("grün\n", encoding="utf-8")
    aliases = settings.STORAGES
    for words, status, out, err in [
        (["put", tmp_path / "a", "nas:dir/a"], 0, "", ""),
        (["cat", "nas:dir/a"], 0, "grün\n", ""),
        (["ls", "nas:dir"], 0, "a\n", ""),
        (
            ["put", tmp_path / "a", "nas:dir/a"],
            1,
            "",
            f"CommandError: {tmp_path}/a -> nas:dir/a: is there already; --force replaces it\n",
        ),
        (["rm", "nas:missing"], 1, "", "CommandError: nas:missing: No such file or directory\n"),
    ]:
        child = manage(aliases, *words)
        told = child.communicate(timeout=PATIENCE)
        assert (child.returncode, *(x.decode() for x in told)) == (status, out, err)
    child = manage(aliases, "ls", "nax:")
    err = child.communicate(timeout=PATIENCE)[1].decode()
    assert child.returncode == 2
    assert err.endswith(": STORAGES has no alias 'nax'; did you mean 'nas'?\n")


def test_settings_of_no_use_are_told_in_a_line(manage):
    broken = {"nas": {"BACKEND": "netstorage.SFTPStorage", "OPTIONS": {"hots": "x"}}}
    for words in (["ls", "nas:"], ["put", "x", "nas:"]):
        child = manage(broken, *words)
        err = child.communicate(timeout=PATIENCE)[1].decode()
        assert child.returncode == 2
        assert err.splitlines()[-1].endswith("Did you mean 'host'?")
        assert "Traceback" not in err


@pytest.mark.parametrize("entry", [{}, {"OPTIONS": {}}, {"BACKEND": "fractions.Fraction"}])
def test_a_storage_that_cannot_be_made_is_told_in_a_line(manage, entry):
    """Whatever its class raises; `check` tells it as its first step."""
    entry = {"OPTIONS": {"numerator": 1, "denominator": 0}} | entry
    for words in (["ls", "bad:"], ["sync", "good:", "bad:x"], ["orphans", "good"]):
        good = {"BACKEND": "django.core.files.storage.InMemoryStorage"}
        child = manage({"good": good, "bad": entry}, *words)
        err = child.communicate(timeout=PATIENCE)[1].decode()
        assert child.returncode == (1 if words[-1] == "good" else 2)
        last = err.splitlines()[-1]
        assert "STORAGES['bad']: " in last
        assert last.endswith(". Correct that entry.")
        assert "Traceback" not in err


def test_standard_input(manage, nas):
    child = manage(settings.STORAGES, "put", "-", "nas:piped", stdin=subprocess.PIPE)
    assert child.communicate(b"from a pipe", timeout=PATIENCE) == (b"", b"")
    with nas.open("piped") as file:
        assert file.read() == b"from a pipe"


@pytest.mark.parametrize("words", [["ls"], ["cat", "big"], ["tree"]], ids=lambda words: words[0])
def test_a_pipe_that_is_closed(manage, nas, words):
    """As with `| head`: it ends without a word."""
    nas.save("big", ContentFile(bytes(2**20)))
    read, write = os.pipe()
    child = manage(settings.STORAGES, words[0], f"nas:{''.join(words[1:])}", stdout=write)
    os.close(write)
    os.close(read)
    assert child.communicate(timeout=PATIENCE)[1] == b""
    assert child.returncode == 128 + signal.SIGPIPE


@over_sftp
def test_streams_that_are_closed(manage, nas):
    """As a daemon may start it: the work is done, and what it says is lost."""
    nas.save("a", ContentFile(b"abc"))
    for descriptor, words in ((1, ["ls", "nas:"]), (1, ["cat", "nas:a"]), (2, ["ls", "nas:"])):
        child = manage(settings.STORAGES, *words, preexec_fn=lambda it=descriptor: os.close(it))
        out, err = child.communicate(timeout=PATIENCE)
        assert (child.returncode, out, err) == (0, b"a\n" * (descriptor == 2), b"")
    child = manage(settings.STORAGES, "put", "-", "nas:b", preexec_fn=lambda: os.close(0))
    assert child.communicate(timeout=PATIENCE)[1].startswith(b"CommandError: Standard input is")
    assert child.returncode == 1


@over_sftp
def test_standard_output_on_a_full_disk(manage, nas):
    """It is not the storage's disk, and the line says so."""
    nas.save("a", ContentFile(b"abc"))
    for words in (["ls", "nas:"], ["cat", "nas:a"], ["check", "nas"]):
        with open("/dev/full", "w") as full:
            child = manage(settings.STORAGES, *words, stdout=full)
        err = child.communicate(timeout=PATIENCE)[1]
        assert err == b"CommandError: standard output: No space left on device\n"
        assert child.returncode == 1


class Interrupted(Storage):
    """A storage that takes so long to be made that somebody presses Ctrl-C."""

    def __init__(self):
        os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_before_it_has_begun(manage):
    child = manage({"slow": {"BACKEND": f"{__name__}.Interrupted"}}, "ls", "slow:")
    assert child.communicate(timeout=PATIENCE) == (b"", b"CommandError: Interrupted.\n")
    assert child.returncode == 130


def interrupt(child, relay):
    """Press Ctrl-C, then let a little more through each time, until it has noticed."""
    child.send_signal(signal.SIGINT)
    deadline = time.monotonic() + PATIENCE
    while child.poll() is None:
        assert time.monotonic() < deadline
        relay.release()
        relay.hold_after(2**18)
        try:
            child.wait(0.5)
        except subprocess.TimeoutExpired:
            continue
    relay.release()
    return child.communicate()[1].decode()


def lose_server(child, relay):
    """Take it away in the middle of a file, for good; the process says so in a line, and ends."""
    relay.wait_until_held()
    relay.stop_listening()
    relay.cut()
    out, err = child.communicate(timeout=PATIENCE)
    assert (child.returncode, out) == (1, b"")
    lines = [line for line in err.decode().splitlines() if "temporary file" not in line]
    assert len(lines) == 1, err.decode()
    assert lines[0].startswith("CommandError: ")
    assert str(relay.port) in lines[0]


@pytest.mark.parametrize("subcommand", ["put", "cp"])
def test_ctrl_c_in_an_upload(manage, server, nas, large, subcommand):
    with Relay(server) as relay:
        disk = {
            "BACKEND": "django.core.files.storage.FileSystemStorage",
            "OPTIONS": {"location": large.parent},
        }
        relay.hold_after(2**20)
        source = large if subcommand == "put" else "disk:large.bin"
        aliases = {**through(relay, nas), "disk": disk}
        child = manage(aliases, subcommand, source, "nas:dir/large.bin")
        relay.wait_until_held()
        told = interrupt(child, relay)
    assert child.returncode == 130
    assert told == "CommandError: Interrupted: 0 of 1 were copied.\n"
    assert not nas.exists("dir/large.bin")


def test_ctrl_c_in_a_download(manage, server, nas, large, tmp_path):
    """What was there whole stays, the other is not there, and the line says so."""
    nas.save("tree/a", ContentFile(b"small"))
    with large.open("rb") as file:
        nas.save("tree/large.bin", File(file))
    with Relay(server, answers=True) as relay:
        relay.hold_after(2**20)
        child = manage(through(relay, nas), "get", "-r", "nas:tree", tmp_path / "got")
        relay.wait_until_held()
        told = interrupt(child, relay)
    assert child.returncode == 130
    assert re.fullmatch(r"CommandError: Interrupted: [01] of 2 were copied\.\n", told)
    names = [path.name for path in (tmp_path / "got").rglob("*")]
    assert names == ["a"] * int(told.split()[2])


@pytest.mark.parametrize("direction", ["put", "get"])
def test_a_server_that_goes_away(manage, server, nas, large, tmp_path, direction):
    if direction == "get":
        with large.open("rb") as file:
            nas.save("large.bin", File(file))
    with Relay(server, answers=direction == "get") as relay:
        relay.hold_after(2**20)
        words = [large, "nas:new.bin"] if direction == "put" else ["nas:large.bin", tmp_path / "n"]
        lose_server(manage(through(relay, nas), direction, *words), relay)
    assert not nas.exists("new.bin")
    assert not (tmp_path / "n").exists()
    # Nobody could reach the server to remove what it has.
    remove_temporaries(server, nas)


def test_memory_stays_constant(peak, nas, tmp_path):
    """Whatever goes from this machine to a storage, from there to another, and back."""
    aliases = settings.STORAGES
    path = tmp_path / "huge.bin"
    with path.open("wb") as file:
        file.truncate(3 * LARGE)

    usual = peak(aliases, "put", "its_settings.py", "nas:")
    for words in (["put", path], ["cp", "nas:huge.bin"], ["get", "nas:huge.bin"], ["cat"]):
        target = {"put": "nas:", "cp": "nas2:", "get": tmp_path / "got", "cat": "nas:huge.bin"}
        assert peak(aliases, *words, target[words[0]]) < usual + LARGE
    assert (tmp_path / "got").stat().st_size == 3 * LARGE


def test_a_bar_where_somebody_watches(watched, nas, large):
    """Within 80 columns, and gone at the end."""
    lines = watched(settings.STORAGES, "put", large, "nas:")
    assert any("copied" in line and "67.1" in line for line in lines), lines
    assert max(map(len, lines)) <= 80
    assert nas.size("large.bin") == LARGE


@pytest.mark.parametrize("subcommand", ["", *SUBCOMMANDS])
def test_help(manage, subcommand):
    """Within 80 columns; the summaries are written as such."""
    child = manage({}, *subcommand.split(), "--help")
    out, err = child.communicate(timeout=PATIENCE)
    assert (child.returncode, err) == (0, b"")
    lines = out.decode().splitlines()
    assert max(map(len, lines)) <= 80
    if subcommand:
        return
    summaries = dict(re.findall(r"^    (\w+) +(\S.*)$", out.decode(), re.MULTILINE))
    assert list(summaries) == list(SUBCOMMANDS)
    for summary in summaries.values():
        assert summary[0].isupper()
        assert not summary.endswith(".")


@over_sftp
def test_ctrl_c_in_a_check(manage, server, nas):
    """In the middle of an upload, which breaks the session: what was made goes over another."""
    nas.save("there", ContentFile(b""))
    with Relay(server) as relay:
        relay.hold_after(2**19)
        child = manage(through(relay, nas), "check", "nas")
        relay.wait_until_held()
        told = interrupt(child, relay)
    assert child.returncode == 130
    assert told == "CommandError: Interrupted.\n"
