"""``sync SOURCE DEST``: give a directory what another one has."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError
from contextlib import closing, suppress
from dataclasses import dataclass
from threading import Event
from typing import Any

from django.core.management.base import CommandError

from ..exceptions import NetStorageError
from .copying import Copier, Counts
from .differences import Comparison, Difference, Differences, Plan
from .fanout import FanOut, task
from .journal import Journal
from .moving import lies_in
from .place import place
from .removing import remove_directories
from .steps import Done, Step, Steps, carried, run_steps
from .terminal import Failures, Terminal, size_of


def jobs(text: str) -> int:
    """Read how many files at a time; for argparse."""
    if not text.isdecimal() or not 0 < int(text) <= 1000:
        raise ArgumentTypeError(f"{text!r} is no number from 1 to 1000")
    return int(text)


def sync_arguments(parser: ArgumentParser) -> None:
    """Tell what may follow the subcommand's name."""
    parser.add_argument("source", metavar="SOURCE", type=place, help="a directory: ALIAS:[PATH]")
    parser.add_argument("dest", metavar="DEST", type=place, help="the one that gets its files")
    parser.add_argument(
        "--checksum", action="store_true", help="compare contents, not sizes and times"
    )
    parser.add_argument("--update", action="store_true", help="keep files that are newer in DEST")
    parser.add_argument(
        "--delete", action="store_true", help="remove from DEST what SOURCE does not have"
    )
    parser.add_argument("--dry-run", action="store_true", help="only show what would be done")
    parser.add_argument("--tasks", action="store_true", help="let workers of Django's Tasks copy")
    parser.add_argument(
        "--jobs", metavar="N", type=jobs, help="most files at a time; default: what servers carry"
    )


def sync(options: dict[str, Any], terminal: Terminal) -> int:
    """Copy what is missing or different in another place."""
    source, dest = options["source"], options["dest"]
    if lies_in(dest, source) or lies_in(source, dest):
        raise CommandError(f"{source} and {dest} lie in one another.")
    if options["delete"]:
        dest.require_inside(follow=True)
    if options["tasks"]:
        task()  # before hours of comparing
    failed = Failures("copied", limit=None)
    journal = Journal(source, dest, checksum=options["checksum"])
    journal.read()
    with closing(_compare(options, journal, failed, terminal)) as found:
        if options["delete"] and not failed.lines:
            _require_files(options, found)
        if options["dry_run"]:
            counts = _show(options, found, failed, terminal)
        elif options["tasks"]:
            counts = FanOut(source, dest, found.plan, journal, options).copy(failed, terminal)
        else:
            counts = _copy(options, found, journal, failed, terminal)
        removed, stayed = 0, Failures("removed", limit=None)
        if options["delete"] and not failed.lines:
            removed = _remove_extra(options, found, stayed, terminal)
        if not options["dry_run"]:
            journal.remove()
        terminal.line(_summary(options, found, counts, removed))
    if failed.lines and options["delete"]:
        terminal.complain(f"Nothing was removed from {dest}, as not all was copied.")
    failed.end()
    stayed.end()
    return 0


def _copy(
    options: dict[str, Any],
    found: Differences,
    journal: Journal,
    failed: Failures,
    terminal: Terminal,
) -> Counts:
    """Copy what has to be copied."""
    copier = Copier(options["source"], options["dest"], checksum=options["checksum"])

    def copy(step: Copy, done: Done, stop: Event) -> None:
        copier.copy(step.difference, done, stop)
        journal.add(step.difference)

    try:
        run_steps(_steps(options, found.plan), copy, failed, terminal, jobs=options["jobs"])
    except BaseException:
        # Who comes next goes on from there, if the server can be reached.
        with suppress(OSError, NetStorageError):
            journal.flush()
        raise
    return copier.counts


def _show(
    options: dict[str, Any], found: Differences, failed: Failures, terminal: Terminal
) -> Counts:
    """Show what would have to be copied."""
    copier = Copier(options["source"], options["dest"], checksum=options["checksum"])

    def show(step: Copy, done: Done, stop: Event) -> None:
        if copier.differs(step.difference, done, stop):
            verb = "replace" if step.difference.is_there else "copy"
            terminal.line(f"{verb:8}{step.target}")

    # In order, if there are no contents to wait for.
    jobs = options["jobs"] if options["checksum"] else 1
    run_steps(_steps(options, found.plan), show, failed, terminal, jobs=jobs)
    return copier.counts


@dataclass(frozen=True, kw_only=True)
class Copy(Step):
    """A difference as a step."""

    difference: Difference


def _steps(options: dict[str, Any], plan: Plan) -> Steps:
    source, dest = options["source"], options["dest"]

    def step(each: Difference) -> Copy:
        here, there = source.below(each.name), dest.below(each.name)
        return Copy(here, there, size=each.size, difference=each)

    return Steps(map(step, plan), len(plan), plan.size, [source.storage, dest.storage])


def _compare(
    options: dict[str, Any], journal: Journal, failed: Failures, terminal: Terminal
) -> Differences:
    """Look what is different, but for what the journal says is done."""
    source, dest = options["source"], options["dest"]
    comparison = Comparison(
        source,
        dest,
        checksum=options["checksum"],
        update=options["update"],
        is_done=journal.__contains__,
    )
    threads, _ = carried([source.storage, dest.storage], options["jobs"])
    with terminal.progress("compared", None, of_bytes=False) as advance:
        return comparison.run(failed, threads=threads, advance=advance)


def _require_files(options: dict[str, Any], found: Differences) -> None:
    """Refuse to empty the target for a source that may be a disk that is not mounted."""
    if not found.files and found.extra:
        source, dest = options["source"], options["dest"]
        raise CommandError(
            f"{source} has no files: --delete would remove all {len(found.extra)} of {dest}. "
            "If that is meant, use `rm -r`."
        )


def _remove_extra(
    options: dict[str, Any], found: Differences, stayed: Failures, terminal: Terminal
) -> int:
    dest, directories = options["dest"], found.extra_directories
    if options["dry_run"]:
        for name in (*(each.name for each in found.extra), *(f"{each}/" for each in directories)):
            terminal.line(f"{'remove':8}{dest}{'/' * bool(dest.path)}{name}")
        return len(found.extra)

    def remove(step: Step, done: Done, stop: Event) -> None:
        step.source.delete()

    steps = (Step(dest.below(each.name), size=0) for each in found.extra)
    extra = Steps(steps, len(found.extra), 0, [dest.storage])
    run_steps(extra, remove, stayed, terminal, jobs=options["jobs"])
    removed = len(found.extra) - len(stayed.lines)
    if not stayed.lines:
        remove_directories([dest.below(name) for name in directories], stayed)
    return removed


def _summary(options: dict[str, Any], found: Differences, counts: Counts, removed: int) -> str:
    dry_run = options["dry_run"]
    copied = len(found.plan) - counts.same if dry_run else counts.copied
    size = "" if dry_run else f" ({size_of(counts.size)})"
    would = "would be " if dry_run else ""
    parts = [f"{copied} file{'s' * (copied != 1)}{size} {would}copied"]
    parts += [f"{removed} {would}removed"] if options["delete"] else []
    parts += [f"{found.same + counts.same} the same"]
    parts += [f"{found.newer} newer in {options['dest']}"] if found.newer else []
    parts += [f"{counts.gone} gone in the meantime"] if counts.gone else []
    return ", ".join(parts)
