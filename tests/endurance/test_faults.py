"""Whatever goes wrong on the line, wherever: done or told, whole or not there, and over with it.

Each test does one operation as often as there are points at which its fault can strike. A point is
a turn (what the client sends in one go, and the answer), and a place in it.
"""

from __future__ import annotations

import collections
import itertools
import time
from collections.abc import Callable

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

ROWS = {
    What.CUT: "The line is cut",
    What.RESET: "The line is cut",
    What.REFUSE: "The line is cut, and stays so",
    What.STALL: "The line falls silent",
    What.TRICKLE: "The line becomes slow",
    What.CORRUPT: "A bit turns over on the line (SSH)",
}
"""What can go wrong on a line, and where the documentation tells what comes of it."""
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
    scene: Scene, which: str, what: What, no_pause: None, record_property: Callable[..., None]
) -> None:
    operation = OPERATIONS[which]
    if what is What.CORRUPT and scene.server.protocol == "webdav":
        # Plain HTTP has nothing against it; TLS has (RFC 8446, 5.2).
        return
    outcomes = collections.Counter(
        strike(scene, operation, Fault(what, turn, where), ROWS[what])
        for turn in scene.turns(operation)
        for where in places(what)
    )
    # For whoever wants the matrix: -o junit_family=xunit1 --junitxml=FILE.
    record_property("outcomes", dict(outcomes))
    assert outcomes.total() > outcomes[NOT_STRUCK]


@pytest.mark.parametrize("server", ["proftpd"], indirect=True)
def test_a_cut_where_a_hard_link_gives_a_file_its_name(scene: Scene, no_pause: None) -> None:
    """Between the link and the removal of the hidden name there are two: it is one file still."""
    operation, what = OPERATIONS["save"], What.CUT
    outcomes = collections.Counter(
        strike(scene, operation, Fault(what, turn, where), ROWS[what])
        for turn in scene.turns(operation)
        for where in places(what)
    )
    assert outcomes.total() > outcomes[NOT_STRUCK]


@pytest.mark.parametrize("what", ROWS, ids=lambda what: what.name.lower())
def test_a_fault_at_every_point_of_connecting(
    scene: Scene, what: What, no_pause: None, record_property: Callable[..., None]
) -> None:
    if what is What.CORRUPT and scene.server.protocol == "webdav":
        return
    operation = OPERATIONS["exists"]
    # What is only slow must not fail.
    row = ROWS[what] if what is What.TRICKLE else CONNECTING
    outcomes: collections.Counter[str] = collections.Counter()
    for turn in itertools.count(1):
        came = collections.Counter(
            strike(scene, operation, Fault(what, turn, where), row, cold=True)
            for where in places(what)
        )
        if {*came} == {NOT_STRUCK}:
            break
        outcomes += came
    record_property("outcomes", dict(outcomes))
    assert turn > 1


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
