"""What whoever runs a site sees of its storages: spans, metrics, the numbers of pools, the logs."""

from __future__ import annotations

import gc
import logging
import re
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from threading import Event

import prometheus_client
import pytest
from django.core.exceptions import SuspiciousFileOperation
from django.core.files.base import ContentFile
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.trace import SpanKind, StatusCode

import netstorage
from netstorage import ConnectError, PoolTimeout, SFTPStorage, WebDAVStorage, telemetry
from netstorage.bulk import save_many
from netstorage.downloads.content import Content
from netstorage.health import check_health
from netstorage.leftovers import find_leftovers
from netstorage.storage import TEMPORARY
from tests.contract.helpers import private_storage, read
from tests.contract.relay import PATIENCE, Relay
from tests.contract.test_servers_page import requests
from tests.servers import fresh_location
from tests.servers.base import free_port
from tests.servers.scripted import on, w
from tests.servers.scripted_http import MemoryDAV, Reply, ScriptedHTTP
from tests.telling import Told, numbers

FEW_SERVERS = True
ROOT = Path(__file__).parents[1]
SMALL = ContentFile(b"x" * 1000)
ALL_READ = 255 * 2**10
"""What ``read()`` asks for first."""


@pytest.fixture
def own(server):
    """A storage on each server in turn, with a pool of its own that knows the server."""
    storage = private_storage(server, location=fresh_location(server))
    storage.save("there.txt", SMALL)
    read(storage, "there.txt")
    storage.save("gone.txt", SMALL)
    storage.delete("gone.txt")
    with closing(storage.pool):
        yield storage


def overwriting(storage):
    return type(storage)(**{**storage.options, "allow_overwrite": True})


def relayed_to(relay, storage):
    """The same storage, by way of a relay."""
    location = {"location": storage.options["location"]}
    return type(storage)(**storage.options | relay.options | location)


def nowhere():
    """A storage on a server that is not there."""
    key = "SHA256:" + "A" * 43
    return SFTPStorage(host="127.0.0.1", port=free_port(), password="x", host_key=key)


def said(caplog, logger: str, level: int) -> list[str]:
    return [r.getMessage() for r in caplog.records if (r.name, r.levelno) == (logger, level)]


# --- spans --------------------------------------------------------------------------------------

OPERATIONS = {
    # What is done, the operation's name, round trips over SFTP, bytes sent, and received.
    "exists": (lambda s: s.exists("there.txt"), "exists", 1, 0, 0),
    "exists not": (lambda s: s.exists("missing"), "exists", 1, 0, 0),
    "size": (lambda s: s.size("there.txt"), "stat", 1, 0, 0),
    "mtime": (lambda s: s.get_modified_time("there.txt"), "stat", 1, 0, 0),
    "read": (lambda s: read(s, "there.txt"), "read", 2, 0, 1000),
    "save": (lambda s: s.save("new.txt", SMALL), "save", 4, 1000, 0),
    "overwrite": (lambda s: overwriting(s).save("there.txt", SMALL), "save", 3, 1000, 0),
    "folders": (lambda s: s.save("a/b/c/new.txt", SMALL), "save", 5, 1000, 0),
    "write": (lambda s: s.open("w.txt", "wb").close(), "save", 3, 0, 0),
    "listdir": (lambda s: s.listdir(""), "listdir", 2, 0, 0),
    "delete": (lambda s: s.delete("there.txt"), "delete", 1, 0, 0),
    "delete not": (lambda s: s.delete("missing"), "delete", 1, 0, 0),
}
"""The round trips are those of docs/saving.md."""


@pytest.mark.parametrize("which", OPERATIONS)
def test_an_operation_is_one_span(own, server, told, which, caplog):
    """With what it came to; over WebDAV a round trip is a request, of which httpx logs each."""
    do, name, round_trips, sent, received = OPERATIONS[which]
    caplog.set_level(logging.INFO, "httpx")
    do(own)
    span = told.span()
    if isinstance(own, WebDAVStorage):
        round_trips = sum(record.name == "httpx" for record in caplog.records)
    assert span.name == f"netstorage {name}"
    assert span.kind is SpanKind.CLIENT
    assert span.status.status_code is StatusCode.UNSET
    assert span.parent is None
    assert numbers(span) == {
        "bytes_sent": sent,
        "bytes_received": received,
        "round_trips": round_trips,
        "reconnects": 0,
    }
    assert 0 < span.attributes["netstorage.wait_time"] < PATIENCE
    assert span.attributes["netstorage.operation.name"] == name
    assert span.attributes["server.address"] == "127.0.0.1"
    assert span.attributes["server.port"] == server.port
    assert span.attributes["network.protocol.name"] == server.protocol.replace("webdav", "http")
    assert span.attributes["netstorage.client.connection.pool.name"] == own.pool.name
    assert "error.type" not in span.attributes


def test_the_requests_of_webdav_are_the_known_ones(webdav_storage, told):
    """Those of docs/saving.md, on a server that is known."""
    requests(webdav_storage)
    told.spans()
    webdav_storage.save("a.txt", SMALL)
    read(webdav_storage, "a.txt")
    webdav_storage.exists("a.txt")
    assert [span.attributes["netstorage.round_trips"] for span in told.spans()] == [3, 1, 1]


def test_links_that_are_confined_cost_what_they_cost(sftp_storage, told):
    confined = SFTPStorage(**{**sftp_storage.options, "confine_links": True})
    confined.save("a.txt", SMALL)
    confined.exists("a.txt")
    read(confined, "a.txt")
    assert [span.attributes["netstorage.round_trips"] for span in told.spans()] == [7, 2, 3]


def test_a_long_transfer_counts_what_it_waits_for(own, told):
    """Not the requests that travel side by side: 20 MB are some eighty of them over SFTP."""
    own.save("long.bin", ContentFile(b"x" * 20_000_000))
    assert numbers(told.span())["bytes_sent"] == 20_000_000
    assert len(read(own, "long.bin")) == 20_000_000
    first, rest = map(numbers, told.spans())
    assert first["bytes_received"] == ALL_READ
    assert first["bytes_received"] + rest["bytes_received"] == 20_000_000
    assert rest["round_trips"] <= 10


@pytest.mark.parametrize(
    ("do", "name", "kind"),
    [
        (lambda s: s.size("dir/plan.pdf"), "stat", FileNotFoundError),
        (lambda s: read(s, "dir/plan.pdf"), "read", FileNotFoundError),
        (lambda s: s.delete("dir"), "delete", OSError),
        (lambda s: s.save("../plan.pdf", SMALL), "save", SuspiciousFileOperation),
    ],
)
def test_an_error_is_told_by_its_type(own, told, do, name, kind):
    """What a caller gets, not what was asked on the way; and no name of a file, nor a message."""
    own.save("dir/there.txt", SMALL)
    told.spans()
    with pytest.raises(kind):
        do(own)
    span = told.span()
    words = {
        OSError: "ENOTEMPTY",
        SuspiciousFileOperation: "django.core.exceptions.SuspiciousFileOperation",
    }
    assert span.name == f"netstorage {name}"
    assert span.status.status_code is StatusCode.ERROR
    assert span.attributes["error.type"] == words.get(kind, kind.__name__)
    assert span.events == ()
    assert "plan" not in span.to_json()


def test_names_are_not_told(own, told):
    own.save("dir/Alice's plan.pdf", SMALL)
    read(own, "dir/Alice's plan.pdf")
    own.listdir("dir")
    own.delete("dir/Alice's plan.pdf")
    assert not [span for span in told.spans() if "Alice" in span.to_json()]


def test_a_server_that_is_not_there(told):
    storage = nowhere()
    with pytest.raises(ConnectError):
        storage.exists("f")
    with pytest.raises(ConnectError):
        list(find_leftovers(storage))
    exists, other = told.spans()
    assert exists.name == "netstorage exists"
    assert other.name == "netstorage _OTHER"
    for span in (exists, other):
        assert span.attributes["error.type"] == "netstorage.exceptions.ConnectError"
    assert told.value("connection.failed", pool_name=storage.pool.name) == 1


def test_a_host_that_makes_no_url(told):
    """What is wrong with it is told by connecting, not by telling."""
    storage = SFTPStorage(host="[::1]", host_key="SHA256:" + "A" * 43)
    with pytest.raises(ConnectError):
        storage.exists("f")
    assert "server.address" not in told.span().attributes


def test_what_nobody_named_is_named_by_what_it_does(sftp_storage, told):
    list(find_leftovers(sftp_storage, older_than=timedelta(hours=1)))
    assert {span.name for span in told.spans()} >= {"netstorage listdir"}


def test_a_save_of_what_lies_elsewhere(sftp_storage, webdav_storage, told):
    """Reading it is an operation on another server, within the save."""
    webdav_storage.save("a.txt", SMALL)
    told.spans()
    with webdav_storage.open("a.txt") as file:
        sftp_storage.save("b.txt", file)
    reading, saving = told.spans()
    assert reading.name == "netstorage read"
    assert reading.attributes["network.protocol.name"] == "http"
    assert reading.parent.span_id == saving.context.span_id
    assert numbers(saving)["bytes_received"] == 0
    assert numbers(saving)["round_trips"] == 4


def test_a_copy_within_a_server_is_one_span(sftp_storage, told):
    sftp_storage.save("a.txt", SMALL)
    told.spans()
    with sftp_storage.open("a.txt") as file:
        sftp_storage.save("b.txt", file)
    copied = numbers(told.span())
    assert (copied["bytes_sent"], copied["bytes_received"]) == (1000, 1000)
    assert copied["round_trips"] == 6


def test_threads_of_ours_work_for_the_callers_span(sftp_storage, told):
    sftp_storage.save("long.bin", ContentFile(b"x" * 300_000))
    told.spans()
    with told.tracer.start_as_current_span("page") as page:
        list(save_many(sftp_storage, ((f"{n}.txt", ContentFile(b"x")) for n in range(5))))
        check_health(sftp_storage)
        content = Content(sftp_storage, "long.bin")
        content.begin(0)
    # A response is sent when its view has returned.
    assert sum(map(len, content.stream([(0, 300_000)]))) == 300_000
    spans = [span for span in told.spans() if span.name != "page"]
    names = [span.name.removeprefix("netstorage ") for span in spans]
    assert names[:6] == ["save"] * 5 + ["exists"]
    assert len(names) >= 8
    assert set(names[6:]) == {"read"}
    assert {span.parent.span_id for span in spans} == {page.get_span_context().span_id}


# --- sessions that are lost, and sessions that are waited for -----------------------------------


def cut_in_the_middle(storage, relay):
    """Look for a file, and lose the session while the answer is on its way."""
    assert storage.exists("there.txt")
    relay.hold_after(0)
    with ThreadPoolExecutor() as executor:
        looking = executor.submit(storage.exists, "there.txt")
        relay.wait_until_held()
        relay.cut()
        assert looking.result(PATIENCE)


@pytest.fixture
def relay(server):
    with Relay(server, answers=True) as relay:
        yield relay


@pytest.fixture
def relayed(relay, own):
    storage = relayed_to(relay, own)
    with closing(storage.pool):
        yield storage


def test_a_lost_session_that_was_replaced(relayed, relay, told, caplog):
    caplog.set_level(logging.INFO, "netstorage")
    cut_in_the_middle(relayed, relay)
    _, span = told.spans()
    assert span.status.status_code is StatusCode.UNSET
    assert numbers(span)["reconnects"] == 1
    assert numbers(span)["round_trips"] == 2
    assert told.value("reconnects", operation_name="exists") == 1
    if isinstance(relayed, SFTPStorage):
        # httpx renews its connections itself.
        assert told.value("connection.broken", pool_name=relayed.pool.name) == 1
        assert told.value("connection.opened", pool_name=relayed.pool.name) == 2
        broken = f"closing a broken session to {relayed.pool.endpoint}"
        assert broken in said(caplog, "netstorage.pool", logging.INFO)
        (line,) = said(caplog, "netstorage.storage", logging.INFO)
        assert line.startswith("repeating after a lost session: ")


def test_a_pool_that_is_exhausted(own, told):
    tight = type(own)(**own.options | {"timeout": 77, "pool": {"max_size": 1, "timeout": 0.1}})
    with closing(tight.pool), tight.pool.connection(exclusive=True):
        assert told.value("connection.count", state="used", pool_name=tight.pool.name) == 1
        with pytest.raises(PoolTimeout):
            tight.exists("there.txt")
    span = told.span()
    assert span.name == "netstorage exists"
    assert span.attributes["error.type"] == "netstorage.exceptions.PoolTimeout"
    assert span.attributes["netstorage.wait_time"] >= 0.1
    assert numbers(span)["round_trips"] == 0
    (waited,) = told.points("connection.wait_time", pool_name=tight.pool.name)
    assert (waited.count, waited.sum) == (1, span.attributes["netstorage.wait_time"])
    assert told.value("connection.timeouts", pool_name=tight.pool.name) == 1


def test_a_session_that_came_free_in_time(own, told):
    tight = type(own)(**own.options | {"timeout": 77, "pool": {"max_size": 1, "timeout": PATIENCE}})
    waiting = []
    with closing(tight.pool), ThreadPoolExecutor() as executor:
        with tight.pool.connection(exclusive=True):
            looking = executor.submit(tight.exists, "there.txt")
            while not tight.pool.stats().waiting:
                assert not looking.done()
            waiting.append(told.value("connection.pending_requests", pool_name=tight.pool.name))
        assert looking.result(PATIENCE)
        assert waiting == [1]
        assert told.span().attributes["netstorage.wait_time"] >= tight.pool.stats().wait_seconds > 0


def test_work_is_not_waiting(relayed, relay, told):
    """Nor is an answer that takes its time."""
    assert relayed.exists("there.txt")
    told.spans()
    relay.hold_after(0)
    with ThreadPoolExecutor() as executor:
        looking = executor.submit(relayed.exists, "there.txt")
        relay.wait_until_held()
        began = time.perf_counter()
        Event().wait(0.1)
        held = time.perf_counter() - began
        relay.release()
        assert looking.result(PATIENCE)
    span = told.span()
    seconds = (span.end_time - span.start_time) / 1e9
    assert span.attributes["netstorage.wait_time"] <= seconds - held


# --- metrics ------------------------------------------------------------------------------------


def test_metrics(own, told):
    own.save("a.txt", SMALL)
    own.save("b.txt", SMALL)
    read(own, "a.txt")
    with pytest.raises(FileNotFoundError):
        own.size("missing")
    saved, sized = (
        told.points("operation.duration", operation_name=name) for name in ("save", "stat")
    )
    assert [(point.count, "error.type" in point.attributes) for point in saved] == [(2, False)]
    assert saved[0].sum > 0
    assert saved[0].explicit_bounds == telemetry.SECONDS
    assert [point.attributes["error.type"] for point in sized] == ["FileNotFoundError"]
    assert told.value("io", direction="sent") == 2000
    assert told.value("io", direction="received") == 1000
    per_save = sum(numbers(s)["round_trips"] for s in told.spans() if s.name == "netstorage save")
    assert told.value("round_trips", operation_name="save") == per_save
    assert told.points("reconnects") == []


def test_metrics_of_pools_that_share_a_name(own, told):
    other = type(own)(**own.options | {"timeout": 78, "pool": {"max_size": 7}})
    with closing(other.pool):
        assert other.exists("there.txt")
        assert str(other.pool.endpoint) == str(own.pool.endpoint)
        for storage, size in ((own, 4), (other, 7)):
            name = storage.pool.name
            assert told.value("connection.count", state="idle", pool_name=name) == 1
            assert told.value("connection.count", state="used", pool_name=name) == 0
            assert told.value("connection.max", pool_name=name) == size
            assert told.value("connection.opened", pool_name=name) == 1


def test_prometheus(own, monkeypatch):
    """Its exporter for OpenTelemetry shows all there is."""
    told = Told(PrometheusMetricReader())
    monkeypatch.setattr(telemetry, "_opentelemetry", told.opentelemetry)
    own.save("a.txt", SMALL)
    page = prometheus_client.generate_latest().decode()
    told.stop()
    lines = [line for line in page.splitlines() if line.startswith("netstorage_")]

    def value(name: str, *labels: str) -> float:
        (line,) = (x for x in lines if x.startswith(name + "{") and all(y in x for y in labels))
        return float(line.rpartition(" ")[2])

    pool = f'pool_name="{own.pool.name}"'
    save = 'netstorage_operation_name="save"'
    assert value("netstorage_client_operation_duration_seconds_count", save) == 1
    assert value("netstorage_client_operation_duration_seconds_bucket", save, 'le="300"') == 1
    assert value("netstorage_client_io_bytes_total", 'direction="sent"') == 1000
    assert value("netstorage_client_round_trips_total", save) >= 3
    assert value("netstorage_client_connection_count", 'state="idle"', pool) == 1
    assert value("netstorage_client_connection_max", pool) == 4
    assert value("netstorage_client_connection_opened_total", pool) == 1
    assert value("netstorage_client_connection_wait_time_seconds_count", pool) >= 1


def test_the_how_to_lists_what_is_told(own, told):
    """Each attribute of spans, and each metric, and no other."""
    page = (ROOT / "docs" / "howto-observability.md").read_text()
    own.save("a.txt", SMALL)
    read(own, "a.txt")
    with pytest.raises(FileNotFoundError):
        own.size("missing")
    table = page.split("| Attribute |")[1].split("\n\n")[0]
    first = re.findall(r"^\| (`.+?) \|", table, re.MULTILINE)
    documented = set(re.findall(r"`([\w.]+)`", " ".join(first)))
    assert documented == {name for span in told.spans() for name in span.attributes}
    metrics = set(re.findall(r"^\| `netstorage\.client\.([\w.]+)`", page, re.MULTILINE))
    # Nothing was lost here.
    metrics -= {"connection.pool.name", "reconnects"}
    assert metrics == told.names() - {"reconnects"}


# --- without OpenTelemetry ----------------------------------------------------------------------

WITHOUT = {
    "not installed": "sys.modules['opentelemetry'] = None",
    # What else of that name may be there: the namespace, of a package that needs no API.
    "its name alone": "sys.modules['opentelemetry'] = types.ModuleType('opentelemetry')",
    # Before 1.30 a histogram could not propose its bounds.
    "too old": """
        from opentelemetry import metrics
        class Old(metrics.NoOpMeter):
            def create_histogram(self, name, unit="", description=""):
                return super().create_histogram(name, unit, description)
        metrics.get_meter = lambda *args: Old("old")
    """,
}


@pytest.mark.parametrize("how", WITHOUT)
def test_without_opentelemetry_methods_are_as_they_were(how, sftp_server):
    script = f"""
        import sys, types, django
        from django.conf import settings
        settings.configure()
        django.setup()
        {textwrap.indent(textwrap.dedent(WITHOUT[how]).strip(), " " * 8).strip()}
        from django.core.files.base import ContentFile
        from netstorage import SFTPStorage
        from netstorage.bulk import save_many
        storage = SFTPStorage(**{sftp_server.options!r})
        assert [x.name for x in save_many(storage, [("w.txt", ContentFile(b"x"))])] == ["w.txt"]
        assert storage.open("w.txt").read() == b"x"
        storage.delete("w.txt")
        for name in ("_run", "_store", "_stat", "_read", "save", "exists", "listdir", "delete"):
            assert not hasattr(getattr(SFTPStorage, name), "__wrapped__"), name
        print("done")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        cwd=ROOT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.stdout == "done\n", done.stderr


def test_only_one_module_imports_opentelemetry():
    found = [
        path.name
        for path in (ROOT / "netstorage").rglob("*.py")
        if "import opentelemetry" in path.read_text() or "from opentelemetry" in path.read_text()
    ]
    assert found == ["telemetry.py"]


# --- the numbers of pools -----------------------------------------------------------------------


def test_the_numbers_of_all_pools(sftp_storage, webdav_storage):
    sftp_storage.exists("f")
    host = {"host": "numbers.example.com", "host_key": "SHA256:" + "A" * 43}
    unused = SFTPStorage(**host).pool
    same = [SFTPStorage(username=name, **host).pool for name in ("me", "you")]
    pools = [sftp_storage.pool, webdav_storage.pool, unused, *same]
    stats = netstorage.pool_stats()
    assert [stats[pool.name] for pool in pools] == [pool.stats() for pool in pools]
    assert [unused.name, *(pool.name for pool in same)] == [
        "sftp://numbers.example.com:22",
        "sftp://numbers.example.com:22 (2)",
        "sftp://numbers.example.com:22 (3)",
    ]
    # Nothing is asked: nobody is there.
    assert [stats[pool.name].size for pool in (unused, *same)] == [0, 0, 0]
    assert [stats[pool.name].connect_errors for pool in (unused, *same)] == [0, 0, 0]
    # A name stays, whatever becomes of the others.
    del unused, pools
    gc.collect()
    assert "sftp://numbers.example.com:22" not in netstorage.pool_stats()
    assert set(netstorage.pool_stats()) >= {pool.name for pool in same}


# --- the logs that docs/reference-settings.md tells of ------------------------------------------


def test_sessions_that_are_opened(server, caplog):
    caplog.set_level(logging.DEBUG, "netstorage")
    storage = private_storage(server)
    storage.exists("f")
    storage.exists("f")
    assert said(caplog, "netstorage.pool", logging.DEBUG) == [
        f"opened a session to {storage.pool.endpoint}"
    ]
    storage.pool.close()


def test_connects_that_fail(caplog):
    storage = nowhere()
    for _ in range(2):
        with pytest.raises(ConnectError):
            storage.exists("f")
    (line,) = said(caplog, "netstorage.pool", logging.WARNING)
    assert line.startswith(f"no session to {storage.pool.endpoint}, next attempt in 0.")


def test_an_unfinished_file_that_stays(server, own, caplog):
    """The line breaks in the middle of an upload, and nobody answers any more."""
    with Relay(server) as relay, ThreadPoolExecutor() as executor:
        storage = relayed_to(relay, own)
        assert storage.exists("there.txt")
        relay.hold_after(2**20)
        saving = executor.submit(storage.save, "long.bin", ContentFile(b"x" * 2**24))
        relay.wait_until_held()
        relay.stop_listening()
        relay.cut()
        with pytest.raises(ConnectionError):
            saving.result(PATIENCE)
        storage.pool.close()
    lines = said(caplog, "netstorage.storage", logging.WARNING)
    assert lines
    assert all(line.startswith("could not remove the temporary file ") for line in lines)
    assert all(TEMPORARY in line for line in lines)


def test_a_link_that_stays_beside_what_was_published(scripted, caplog):
    server = scripted(on("REMOVE", w.PERMISSION_DENIED, nth=2))
    storage = server.storage()
    with storage.pool.connection() as session:
        session._renames_safely = session._strict = False
    assert storage.save("f", SMALL) == "f"
    (line,) = said(caplog, "netstorage.sftp", logging.WARNING)
    assert line.startswith("published f, but ")
    assert "stays beside it" in line


def test_an_experiment_that_a_webdav_server_refuses(caplog):
    caplog.set_level(logging.INFO, "netstorage")
    dav = MemoryDAV({"a.txt": b"a"})

    def refuse(request):
        return Reply(507) if request.method == "MKCOL" else dav(request)

    with ScriptedHTTP(refuse) as server:
        storage = WebDAVStorage(url=server.url)
        storage.delete("a.txt")
        (line,) = said(caplog, "netstorage.webdav", logging.INFO)
        assert line.startswith(f"an experiment on {storage.pool.endpoint} was refused: ")
        storage.pool.close()
