"""Whether a storage's server answers: for health checks, which want to know it soon."""

from __future__ import annotations

import errno
import threading
import time
from concurrent.futures import Future

from .storage import NetworkStorage, hidden_name
from .telemetry import carrier


def check_health(storage: NetworkStorage, *, within: float = 5.0) -> float:
    """Ask the server for a file that it does not have: one session of the pool, one question.

    Args:
        storage: An ``SFTPStorage`` or ``WebDAVStorage``.
        within: Seconds for all of it. The storage's own deadlines are longer; a question that goes
            on after this is left to them, in a thread of its own.

    Returns:
        The seconds that it took.

    Raises:
        TimeoutError: There was no answer in time.
        NetStorageError: Why there is no session.
        OSError: What the server says instead.
    """
    outcome: Future[bool] = Future()

    def ask() -> None:
        try:
            outcome.set_result(storage.exists(hidden_name()))
        except BaseException as error:  # noqa: BLE001 - raised where it was asked for
            outcome.set_exception(error)

    began = time.monotonic()
    thread = threading.Thread(target=carrier(), args=(ask,), name="netstorage-health", daemon=True)
    thread.start()
    thread.join(within)
    if not outcome.done():
        message = f"{storage.pool.endpoint} did not answer a health check within {within:g} s"
        raise TimeoutError(errno.ETIMEDOUT, message)
    outcome.result()
    return time.monotonic() - began
