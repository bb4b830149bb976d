"""Whatever goes wrong on the line, wherever: done or told, whole or not there, and over with it.

Each test does one operation as often as there are points at which its fault can strike. A point is
a turn (what the client sends in one go, and the answer), and a place in it. Places are tried side
by side, each in a scene of its own: most of the time is spent on waiting for deadlines.
"""

from __future__ import annotations

import collections
import itertools
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import pytest

from tests.contract.helpers import remove_temporaries, temporaries
from tests.endurance.faulty import Fault, What, Where
from tests.endurance.scene import (
    NOT_STRUCK,
    OPERATIONS,
    PATIENCE,
    Operation,
    Scene,
    require_promised,
)
from tests.servers.base import Server

ROWS = {
    What.CUT: "The line is cut",
    What.RESET: "The line is cut",
    What.REFUSE: "The line is cut, and stays so",
    What.STALL: "The line falls silent",
    What.TRICKLE: "The line becomes slow",
    What.CORRUPT: "A bit turns over on the line (SSH)",
}
"""What can go wrong on a line, and where the documentation tells what comes of it."""
T = TypeVar("T")
MakeScene = Callable[[], Scene]
CONNECTING = "Any of these while a session is opened"


def places(what: What) -> list[Where]:
    """Where a fault can strike: what is slow or turned over is so in something, not before it.

    Half a request and silence is, to a server, no request: only the deadline is waited for.
    """
    if what in {What.TRICKLE, What.CORRUPT}:
        return [Where.FLIGHT, Where.PART]
    if what is What.STALL:
        return [Where.REQUEST, Where.ANSWER, Where.PART]
    return list(Where)


@pytest.mark.parametrize("what", ROWS, ids=lambda what: what.name.lower())
@pytest.mark.parametrize("which", OPERATIONS)
def test_a_fault_at_every_point(
    server: Server,
    make_scene: MakeScene,
    which: str,
    what: What,
    no_pause: None,
    record_property: Callable[..., None],
) -> None:
    if what is What.CORRUPT and server.protocol == "webdav":
        # Plain HTTP has nothing against it; TLS has (RFC 8446, 5.2).
        return
    outcomes = strike_at_every_point(make_scene, OPERATIONS[which], what)
    # For whoever wants the matrix: -o junit_family=xunit1 --junitxml=FILE.
    record_property("outcomes", dict(outcomes))
    assert outcomes.total() > outcomes[NOT_STRUCK]


@pytest.mark.parametrize("server", ["proftpd"], indirect=True)
def test_a_cut_where_a_hard_link_gives_a_file_its_name(
    make_scene: MakeScene, no_pause: None
) -> None:
    """Between the link and the removal of the hidden name there are two: it is one file still."""
    outcomes = strike_at_every_point(make_scene, OPERATIONS["save"], What.CUT)
    assert outcomes.total() > outcomes[NOT_STRUCK]


@pytest.mark.parametrize("what", ROWS, ids=lambda what: what.name.lower())
def test_a_fault_at_every_point_of_connecting(
    server: Server,
    make_scene: MakeScene,
    what: What,
    no_pause: None,
    record_property: Callable[..., None],
) -> None:
    if what is What.CORRUPT and server.protocol == "webdav":
        return
    operation = OPERATIONS["exists"]
    # What is only slow must not fail.
    row = ROWS[what] if what is What.TRICKLE else CONNECTING
    outcomes: collections.Counter[str] = collections.Counter()
    scenes = make_scenes(make_scene, what)
    for turn in itertools.count(1):

        def there(where: Where, turn: int = turn) -> str:
            return strike(scenes[where], operation, Fault(what, turn, where), row, cold=True)

        came = collections.Counter(side_by_side(there, scenes))
        if {*came} == {NOT_STRUCK}:
            break
        outcomes += came
    record_property("outcomes", dict(outcomes))
    assert turn > 1


def strike_at_every_point(
    make_scene: MakeScene, operation: Operation, what: What
) -> collections.Counter[str]:
    scenes = make_scenes(make_scene, what)
    turns = scenes[places(what)[0]].turns(operation)

    def there(where: Where) -> list[str]:
        faults = [Fault(what, turn, where) for turn in turns]
        return [strike(scenes[where], operation, fault, ROWS[what]) for fault in faults]

    return collections.Counter(itertools.chain(*side_by_side(there, scenes)))


def make_scenes(make_scene: MakeScene, what: What) -> dict[Where, Scene]:
    """One for each place; their deadlines are short where they are waited for."""
    scenes = {where: make_scene() for where in places(what)}
    if what not in {What.STALL, What.CORRUPT}:
        for scene in scenes.values():
            scene.timeout = scene.connect_timeout = PATIENCE / 2
    return scenes


def side_by_side(do: Callable[[Where], T], where: Iterable[Where]) -> list[T]:
    with ThreadPoolExecutor(len(Where)) as threads:
        return list(threads.map(do, where))


def strike(
    scene: Scene, operation: Operation, fault: Fault, row: str, *, cold: bool = False
) -> str:
    """Do the operation with one fault, and see that nothing is lost; tell what came of it."""
    with scene.doing(operation, fault, cold=cold) as outcome:
        require_promised(row, operation, outcome)
        scene.nothing_lost(operation, outcome)
        look_after(scene, fault)
    return str(outcome)


def look_after(scene: Scene, fault: Fault) -> None:
    """See that nothing unfinished lies on the server."""
    deadline = time.monotonic() + PATIENCE
    while left := temporaries(scene.server, scene.direct):
        if fault.what is What.REFUSE:
            # Nobody could remove it: the server was down.
            remove_temporaries(scene.server, scene.direct)
        assert time.monotonic() < deadline, f"{fault}: {left}"
        time.sleep(0.01)


@pytest.fixture
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nobody wait after a failed connect: here each is on purpose."""
    monkeypatch.setattr("netstorage.pool.BACKOFF_MIN", 0.0)
