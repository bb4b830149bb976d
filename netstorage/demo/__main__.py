"""The command line of the demo."""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Sequence
from importlib.util import find_spec

NEEDED = ("paramiko", "webdav4", "httpx", "asyncssh", "wsgidav", "cheroot", "PIL")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo and return the exit code: 0 well, 1 something broke, 2 it cannot start."""
    parser = argparse.ArgumentParser(
        prog="python -m netstorage.demo",
        description="A Django site that keeps its uploads on an SFTP and a WebDAV server.",
    )
    parser.add_argument(
        "--port", type=int, help="of the site on 127.0.0.1 (8000, or any free one if it is taken)"
    )
    parser.add_argument(
        "--once",
        action="store_true",
        help="upload, list, download and delete some files through the site, and exit",
    )
    options = parser.parse_args(arguments)
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        sys.stderr.write(
            f'The demo needs {", ".join(missing)}: pip install "django-netstorage[demo]"\n'
        )
        return 2
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A name that the terminal cannot show must not end the demo.
        sys.stdout.reconfigure(errors="replace", line_buffering=True)

    from .run import run

    return run(port=options.port, once=options.once)


if __name__ == "__main__":
    sys.exit(main())
