"""The benchmark suite measures what it says: counts, ratios, delays. How fast is not asked here."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from functools import partial
from importlib.util import find_spec

import pytest

from benchmarks import appservers, browsers, child, peers, plots, report, servers, tools
from benchmarks.measure import Case, Measured, cpu_seconds, interleaved
from benchmarks.proxy import Proxy
from benchmarks.report import Column, Report, Table
from benchmarks.tables import roundtrips, sync, transfers
from tests.servers.apache import Apache
from tests.servers.sshd import Sshd

LIBRARIES = {
    peers.DjangoStorages.label: "storages",
    peers.Fsspec.label: "fsspec",
    peers.Sshfs.label: "sshfs",
    peers.SshfsTuned.label: "sshfs",
    peers.Webdavclient3.label: "webdav3",
    peers.Requests.label: "requests",
}


def installed(classes):
    """The peers that are here; in `tox -e bench` that is every one."""
    return [label for label in classes if find_spec(LIBRARIES.get(label, "netstorage"))]


def skip_without(server):
    if reason := server.unavailable():
        pytest.skip(f"{server.name}: {reason}")


# --- the proxy ----------------------------------------------------------------------------------


@pytest.fixture
def echo():
    """The port of a server that sends back what it gets, until it gets no more."""

    def answer(connection):
        with connection:
            while data := connection.recv(2**16):
                connection.sendall(data)

    def serve():
        while True:
            try:
                connection = listener.accept()[0]
            except OSError:
                return
            threads.append(threading.Thread(target=answer, args=(connection,)))
            threads[-1].start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threads = [threading.Thread(target=serve)]
        threads[0].start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()


def test_the_proxy_delays_each_way_and_counts_bytes(echo):
    delay = 0.05
    with Proxy("127.0.0.1", echo, delay) as proxy:
        with socket.create_connection(("127.0.0.1", proxy.port)) as client:
            for _ in range(2):
                started = time.monotonic()
                client.sendall(b"12345")
                assert client.recv(5, socket.MSG_WAITALL) == b"12345"
                assert time.monotonic() - started >= 2 * delay
        assert proxy.counts() == {"up": 10, "down": 10, "connections": 1}


@pytest.mark.parametrize("delay", [0, 0.02])
def test_the_proxy_passes_large_data_whole_and_the_end_of_it(echo, delay):
    data = bytes(range(256)) * 2**15
    with Proxy("127.0.0.1", echo, delay) as proxy:
        with socket.create_connection(("127.0.0.1", proxy.port)) as client:

            def send():
                client.sendall(data)
                client.shutdown(socket.SHUT_WR)

            sender = threading.Thread(target=send)
            sender.start()
            got = bytearray()
            while piece := client.recv(2**16):
                got += piece
            sender.join()
        assert got == data
        assert proxy.counts() == {"up": len(data), "down": len(data), "connections": 1}


def test_the_proxy_survives_clients_that_vanish(echo):
    with Proxy("127.0.0.1", echo, 0.01) as proxy:
        for _ in range(5):
            with socket.create_connection(("127.0.0.1", proxy.port)) as client:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                client.sendall(b"x" * 10**6)
        with socket.create_connection(("127.0.0.1", proxy.port)) as client:
            client.sendall(b"still there")
            assert client.recv(11, socket.MSG_WAITALL) == b"still there"


# --- processes ----------------------------------------------------------------------------------


def spend(seconds):
    """Busy for so many CPU seconds, with much to say about it."""
    print("x" * 2**18)
    while cpu_seconds() < seconds:
        pass
    return {"spent": cpu_seconds()}


def fail(kind):
    raise {"ImportError": ImportError, "OSError": OSError}[kind]("no such luck")


def test_a_child_tells_what_its_function_returns_and_used():
    sample = child.run(spend, seconds=1.5)
    assert sample["process_cpu"] >= sample["spent"] >= 1.5
    assert sample["process"] > 0


def test_a_child_tells_failure_from_absence():
    with pytest.raises(child.Absent, match="no such luck"):
        child.run(fail, kind="ImportError")
    with pytest.raises(child.Failed, match="OSError: no such luck"):
        child.run(fail, kind="OSError")


def test_rounds_take_turns_and_leave_out_what_is_absent(capsys):
    order = []

    def case(label, error=None, at_most=None):
        def sample():
            order.append(label)
            if error:
                raise error
            return {"wall": len(order)}

        return Case(label, sample, at_most)

    cases = [case("a"), case("b", at_most=1), case("c", child.Absent("not here"))]
    cases.append(case("d", child.Failed("command\nTraceback\nOSError: broken")))
    a, b, c, d = interleaved(cases, 3)
    assert order == ["a", "b", "c", "d", "a", "a"]
    assert a.values == {"wall": [1, 5, 6]}
    assert b.values == {"wall": [2]}
    assert (c.missing, d.missing) == ("absent: not here", "failed: OSError: broken")


# --- tables -------------------------------------------------------------------------------------

LINES = [
    Measured("netstorage", {"wall": [1.0, 2.0, 4.0], "rate": [8.0, 4.0, 2.0]}),
    Measured("other", {"wall": [2.0, 4.0, 2.0], "rate": [4.0, 2.0, 4.0]}),
    Measured("once", {"wall": [20.0], "rate": [0.5]}),
    Measured("gone", missing="absent: not here"),
]


@pytest.mark.parametrize(
    ("column", "cells"),
    [
        (Column("wall", "", "s"), ["2.00 (1.00–4.00)", "2.00 (2.00–4.00)", "20.00"]),
        (Column("wall", "", "×", ratio_to="other"), ["2.00 (0.50–2.00)", "1.00", "0.10"]),
        (Column("wall", "", "×", lead_of="netstorage"), ["1.00", "2.00 (0.50–2.00)", "10.00"]),
        (
            Column("rate", "", "×", ratio_to="other", more_is_better=True),
            ["2.00 (0.50–2.00)", "1.00", "0.12"],
        ),
        (
            Column("rate", "", "×", lead_of="netstorage", more_is_better=True),
            ["1.00", "2.00 (0.50–2.00)", "8.00"],
        ),
    ],
)
def test_a_ratio_says_how_many_times_as_good(column, cells):
    table = Table("t", "Title", "Text.", [column], LINES)
    rows = [line for line in table.markdown().splitlines() if line.startswith("| ")]
    assert [row.split(" | ")[1].rstrip(" |") for row in rows[2:]] == [*cells, "absent: not here"]


def test_the_start_of_a_program_is_taken_off_and_the_best_rclone_found():
    def line(label, wall):
        values = {"down_wall": [wall], "down_start_wall": [1.0], "up_wall": [wall]}
        return Measured(label, values)

    lines = transfers.finish(
        [line("netstorage", 3.0), line(tools.RCLONES[0], 5.0), line(tools.RCLONES[1], 3.0)], 64
    )
    assert lines[-1].label == transfers.RCLONE_BEST
    assert lines[-1].values["down_wall"] == [2.0]
    assert lines[-1].values["down_rate"] == [32.0]


def test_results_are_kept_and_shown_from_the_file_alone(tmp_path):
    table = Table("t", "Title", "Text.", [Column("wall", "seconds")], LINES, ["seconds"])
    Report(tmp_path).add("part", [table], {"rounds": 3, "quick": "yes"})
    Report(tmp_path).write()
    text = (tmp_path / "tables.md").read_text()
    assert table.markdown() in text
    assert "nothing to be quoted" in text
    assert text.index("<!-- part -->") < text.index("Title") < text.index("<!-- end of part -->")
    assert (tmp_path / plots.file_name(table, "seconds")).exists() == bool(find_spec("matplotlib"))


def test_the_committed_tables_are_those_of_the_committed_results():
    assert Report(report.RESULTS).text() == (report.RESULTS / "tables.md").read_text()


# --- peers, on real servers ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("label", "server", "start"),
    [
        *[(label, Sshd, servers.sshd) for label in installed(peers.SFTP)],
        *[(label, Apache, servers.apache) for label in installed(peers.WEBDAV)],
    ],
)
def test_a_peer_does_what_its_verbs_say(label, server, start):
    """Each verb, once, told by what lies on the server afterwards; and a transfer each way."""
    skip_without(server)
    with start() as target, servers.scratch() as scratch:
        target.put("there.txt", b"old")
        for number in range(roundtrips.TIMES):
            target.put(f"gone-{number}.txt", b"x")
        target.put("many/1.txt", b"x")
        counts = child.run(
            roundtrips.verbs, label=label, options=target.options, direct=target.direct, rtt=1
        )
        verbs = {*roundtrips.HEADINGS}
        if label == peers.DjangoStorages.label:
            verbs.remove("overwrite")
        assert verbs == {*counts} - {"process", "process_cpu"}
        for name in {
            "new-0.txt",
            "a0/b/c/new.txt",
            *(["there.txt"] if "overwrite" in verbs else []),
        }:
            assert (target.root / name).read_bytes() == roundtrips.KIB10
        assert not [*target.root.glob("gone*")]
        transfers.prepare(target, scratch, [1])
        [case] = transfers.cases([label], target, scratch, 1)
        sample = case.sample()
        assert sample["down_process_cpu"] > sample["down_cpu"] >= 0
        assert sample["up_process"] > sample["up_wall"] > 0


@pytest.mark.parametrize(
    "label", [tool.label for tool in (tools.OpenSSHTuned, tools.Rclone255, tools.Lftp, tools.Curl)]
)
def test_a_tool_copies(label):
    """A program that is missing is told as absent; the others copy both ways."""
    skip_without(Sshd)
    with servers.sshd() as target, servers.scratch() as scratch:
        transfers.prepare(target, scratch, [1])
        [case] = transfers.cases([label], target, scratch, 1)
        [result] = interleaved([case], 1)
        assert result.missing.startswith("absent: ") or result.values["up_cpu"][0] > 0, result


@pytest.mark.parametrize(
    ("label", "server", "start"),
    [
        *[(label, Sshd, servers.sshd) for label in (sync.OURS, *sync.RCLONES)],
        *[(label, Apache, servers.apache) for label in (sync.OURS, sync.THEIRS)],
    ],
)
def test_a_sync_does_the_whole_work(label, server, start):
    """Up, down and once more with nothing to do: each file, and its time where that can be kept."""
    skip_without(server)
    with start(counted=True) as target, servers.scratch() as scratch:
        sync.fill(scratch, {3, 120}, 5)
        cases = [
            Case("small", partial(sync.small, label, target, scratch, 120, 3)),
            Case("large", partial(sync.large, label, target, scratch, 5)),
        ]
        small, large = interleaved(cases, 1)
        if not shutil.which("rclone") and label in sync.RCLONES:
            assert small.missing.startswith("absent: ")
            return
        assert small.values["up_connections"][0] > 0, small
        assert small.values["down_rate"][0] == 120 / small.values["down_wall"][0]
        assert large.values["rate"][0] == 5 / large.values["wall"][0], large


@pytest.mark.parametrize("harm", ["gone", "time", "content"])
def test_a_sync_that_did_less_is_found_out(tmp_path, harm):
    sync.fill(tmp_path, {3}, 1)
    shutil.copytree(tmp_path / "small-3", tmp_path / "copy")
    sync.require_same(tmp_path / "small-3", tmp_path / "copy", times=True)
    path = tmp_path / "copy" / "0" / "1.bin"
    times = path.stat().st_atime, path.stat().st_mtime
    if harm == "gone":
        path.unlink()
    elif harm == "time":
        os.utime(path)
    else:
        path.write_bytes(b"x" + path.read_bytes()[1:])
        os.utime(path, times)
    with pytest.raises(child.Failed):
        sync.require_same(tmp_path / "small-3", tmp_path / "copy", times=True)


@pytest.mark.parametrize(
    "name", [name for name, text in appservers.COMMANDS.items() if find_spec(text.split()[0])]
)
def test_a_site_gives_files_away_in_each_way(name):
    """Whole, or the fetching fails; what was looked at meanwhile is told once."""
    skip_without(Sshd)
    with servers.sshd() as target, servers.scratch() as scratch:
        transfers.prepare(target, scratch, [1])
        site = {"storage": "SFTPStorage", "options": target.options, "folder": str(scratch)}
        with appservers.serving(name, **site) as app:
            idle, cpu = app.begin()
            app.ask("look")
            ways = {"local/up-1": 2, "view/down-1": 2, "open/down-1": 2}
            if find_spec("storages"):
                # Two threads that share its client hang.
                ways["django-storages/down-1"] = 1
            for path, count in ways.items():
                sample = browsers.fetch(app.port, path, count=count)
                assert sample["rate"] * sample["wall"] == pytest.approx(count)
            assert len(app.ask("looked")["took"]) > 0
            assert app.memory("VmHWM") >= idle > 0
            assert app.cpu() >= cpu > 0
            with pytest.raises(OSError, match=r"no file: b'HTTP/1\.[01] 404"):
                browsers.fetch(app.port, "view/no-such-file")


def test_a_slow_client_takes_no_more_than_its_rate_and_goes_away():
    rate, seconds = 2**20, 0.3
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer():
            with listener.accept()[0] as connection, contextlib.suppress(OSError):
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n")
                connection.sendall(bytes(99999999))

        server = threading.Thread(target=answer)
        server.start()
        sample = browsers.fetch(listener.getsockname()[1], "", rate=rate, seconds=seconds)
        server.join()
    assert 0 < sample["rate"] * sample["wall"] * 2**20 <= rate * sample["wall"] + 2**16


def test_the_command_measures_a_table_and_writes_it(tmp_path):
    skip_without(Sshd)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "benchmarks",
            "overhead",
            "--quick",
            "--write",
            f"--output={tmp_path}",
        ],
        cwd=child.ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "### Overhead" in done.stdout
    [table] = json.loads((tmp_path / "results.json").read_text())["overhead"]["tables"]
    for line in table["lines"][:2]:
        assert line["values"]["save_cpu"][0] > line["values"]["exists_cpu"][0] > 0
