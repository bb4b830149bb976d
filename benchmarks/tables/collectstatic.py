"""Django's collectstatic with hashed names over a long line."""

from __future__ import annotations

from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from .. import child, peers, servers
from ..measure import Case, Stopwatch, interleaved
from ..report import Column, Table
from . import Run

OURS = "netstorage, its collectstatic"
ONE_BY_ONE = "netstorage, Django's collectstatic"
THEIRS = peers.DjangoStorages.label
BACKENDS = {
    OURS: "netstorage.staticfiles.ManifestSFTPStorage",
    ONE_BY_ONE: "benchmarks.static.NetstorageStatic",
    THEIRS: "benchmarks.static.DjangoStoragesStatic",
}
TEXT = """\
`collectstatic` of {count} small files at {rtt} ms of round trip, with the names of \
ManifestStaticFilesStorage: each file is put there twice, once under a name with its hash."""


def tables(run: Run) -> list[Table]:
    count = run.pick(1000, 20)
    rtt = 20
    with servers.sshd(rtt=rtt / 1000) as target, servers.scratch() as scratch:
        _site(scratch / "static", count)
        cases = [
            Case(label, partial(_sample, label, target, scratch / "static", count), at_most)
            # One file after the other takes minutes, and does not vary.
            for label, at_most in ((OURS, None), (ONE_BY_ONE, 1), (THEIRS, 1))
        ]
        lines = interleaved(cases, run.rounds)
    return [
        Table(
            "collectstatic",
            "collectstatic",
            TEXT.format(count=count, rtt=rtt),
            [
                Column("wall", f"× {THEIRS}", "×", ratio_to=THEIRS),
                Column("wall", "s"),
                Column("cpu", "CPU s"),
            ],
            lines,
            ["s"],
        )
    ]


def _site(folder: Path, count: int) -> None:
    """Static files of which one in ten is a stylesheet that names two others."""
    folder.mkdir()
    for number in range(count):
        path = folder / f"app{number % 10}"
        path.mkdir(exist_ok=True)
        if number % 10 == 9 and number > 20:
            urls = "".join(
                f'.c{n} {{ background: url("../app{n % 10}/{n}.svg") }}\n'
                for n in (number - 1, number - 12)
            )
            (path / f"{number}.css").write_text(urls + "/* */\n" * 200)
        else:
            text = f"<svg><!-- {number} -->" + "<path/>" * (number % 500) + "</svg>"
            (path / f"{number}.svg").write_text(text)


def _sample(label: str, target: servers.Target, source: Path, count: int) -> dict[str, float]:
    target.clear("site")
    sample = child.run(collect, label=label, options=target.options, source=str(source))
    collected = [path for path in (target.root / "site").rglob("*") if path.is_file()]
    # Every file under both names, and the manifest.
    if len(collected) != 2 * count + 1:
        raise child.Failed(f"{len(collected)} files were collected, not {2 * count + 1}")
    return sample


def collect(label: str, options: dict[str, Any], source: str) -> dict[str, float]:
    """Run the command, in a child process."""
    from django.core.management import call_command

    options = {**options, "location": f"{options['location']}/site"}
    if label == THEIRS:
        options = peers.django_storages_options(options)
    apps = ["django.contrib.staticfiles"]
    if label == OURS:
        import_module("netstorage.staticfiles")
        apps.insert(0, "netstorage.staticfiles")
    peers.configure_django(
        INSTALLED_APPS=apps,
        STATIC_URL="/static/",
        STATICFILES_DIRS=[source],
        STATICFILES_FINDERS=["django.contrib.staticfiles.finders.FileSystemFinder"],
        STORAGES={"staticfiles": {"BACKEND": BACKENDS[label], "OPTIONS": options}},
    )
    with Stopwatch() as watch:
        call_command("collectstatic", interactive=False, verbosity=0)
    return {"wall": watch.wall, "cpu": watch.cpu}
