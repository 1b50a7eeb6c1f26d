"""Campaigns: many faults, one after another, and how the runs after them ended.

`python campaign.py {sample,faults,power} FOLDER`, with the shim loaded (`shim.environment`). This
process runs the lineage once and forks a process for each fault: loading torch takes seconds each
time. A fault comes in one task, on a copy of the project as it was before this task. Then another
process looks at what is visible, runs the task again undisturbed, and compares.
"""

from __future__ import annotations

import json
import logging
import os
import posix
import random
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

from harness import lineage, power  # noqa: E402
from harness.shim import FAULTS, KINDS, attached  # noqa: E402
from support.processes import forked  # noqa: E402
from tqdm import tqdm  # noqa: E402

# `conftest`, which `lineage` imports, leaves the disk out.
os.fsync = posix.fsync

SECONDS = 900
"""A process that takes longer hangs."""

LAST = len(lineage.TASKS)

Point = tuple[int, str, int, str]
"""Task, kind of call, its number, and what is done to it."""

SAMPLE: list[Point] = [
    (0, "write", 3, "torn"),
    (0, "lock", 1, "ENOLCK"),
    (0, "read", 5, "EIO"),
    (1, "fsync", 4, "kill"),
    (1, "create", 4, "EDQUOT"),
    (2, "rename", 5, "rot"),
    (2, "write", 20, "ENOSPC"),
    (2, "fsync", 9, "kill"),
    (3, "write", 12, "torn"),
    (3, "map", 1, "EIO"),
    (4, "mkdir", 2, "EDQUOT"),
    (4, "open", 9, "EINTR"),
    (5, "rename", 4, "rot"),
    (5, "write", 30, "cut"),
    # A part of the search, which was published where it could not be removed.
    (5, "unlink", 13, "EIO"),
    (6, "rename", 3, "kill"),
    (7, "rename", 4, "rot"),
    (7, "resize", 1, "ENOSPC"),
    (7, "write", 12, "torn"),
    (7, "open", 30, "EMFILE"),
]


class Campaign:
    """The project before each task, and what became of the faults.

    Attributes:
        ends: By kind of call and fault: how the disturbed run ended.
        problems: What was torn, or not repaired by the next run; a text each with its fault.
    """

    def __init__(self, folder: Path) -> None:
        """Run the lineage undisturbed, in a folder on a fast disk."""
        self.folder, self.state = folder, attached()
        self.ends, self.problems = Counter[tuple[str, str, str]](), list[str]()
        self.work, self.undisturbed = folder / "work", folder / "undisturbed"
        self.undisturbed.mkdir()
        lineage.write_inputs(self.undisturbed)
        for task in range(LAST):
            shutil.copytree(self.undisturbed, self.before(task))
            lineage.run(self.undisturbed, task, task + 1)
            lineage.forget()

    def before(self, task: int) -> Path:
        """The project as it was before a task."""
        return self.folder / f"before-{task}"

    def points(self) -> Iterator[Point]:
        """Every fault there is."""
        for task in range(LAST):
            ended = self.disturb(task, task + 1, partial(self.state.inject, KINDS[0], 0, "EIO"))
            assert ended == "finished", ended
            for kind, count in zip(KINDS, list(self.state.counts), strict=True):
                for n in range(1, count + 1):
                    yield from ((task, kind, n, fault) for fault in FAULTS[kind])

    def inject(self, points: Iterable[Point], *, to_end_every: int) -> None:
        """Inject each of these faults; run the lineage to its end behind some of them."""
        for number, (task, kind, n, fault) in enumerate(points, 1):
            ended = self.disturb(task, task + 1, partial(self.state.inject, kind, n, fault))
            if fault == "rot":
                rot(self.work / "store", random.Random(n))  # noqa: S311 - reproducible
            ended = ended if self.state.fired else "not reached"
            self.ends[kind, fault, ended] += 1
            at = self.state.where.decode().removeprefix(str(self.work))
            where = f"{lineage.TASKS[task]}, {kind} {n}, {fault} at {at}, {ended}"
            if ended.startswith(("hangs", "crashed")):
                self.problems.append(where)
            self.recover(where, task, LAST if number % to_end_every == 0 else task + 1)

    def lose_power(self, cuts: int, *, fsync: bool = True) -> None:
        """Lose power at so many places of the lineage, evenly spread, in each mode in turn;
        without fsync, if asked.
        """
        log = self.folder / f"log-{fsync}"
        ended = self.disturb(0, LAST, partial(self.state.record, log), fsync=fsync)
        assert ended == "finished", ended
        operations = list(power.operations(log, self.work))
        for number in range(cuts):
            cut, mode = 1 + number * len(operations) // cuts, power.MODES[number % 4]
            shutil.rmtree(self.work)
            power.write_state(operations[:cut], self.before(0), self.work, mode)
            self.recover(f"power loss behind {cut}, {mode}", 0, LAST)

    def disturb(
        self, first: int, last: int, steer: Callable[[Path], None], *, fsync: bool = True
    ) -> str:
        """Run some tasks, steered, in a fresh copy of the project; returns how they ended."""

        def run() -> None:
            if not fsync:
                os.fsync = lambda _: None
            lineage.run(self.work, first, last)

        shutil.rmtree(self.work, ignore_errors=True)
        shutil.copytree(self.before(first), self.work)
        steer(self.work)
        ended, _ = self.forked(run)
        self.state.release()
        return ended

    def recover(self, where: str, first: int, last: int) -> None:
        """Report what is visible and torn after a fault, and what a run without one leaves other
        than an undisturbed lineage; that run is on another machine.
        """

        def look_and_run() -> list[str]:
            found = lineage.torn(self.work)
            lineage.forget()
            lineage.move_away()
            lineage.run(self.work, first, last)
            expected = lineage.published(self.undisturbed, last)
            found += expected.items() - lineage.published(self.work, last).items()
            return found + lineage.left_over(self.work)

        ended, found = self.forked(look_and_run)
        if ended != "finished" or found:
            self.problems.append(f"{where}: the next run {ended}: {found}")

    def forked(self, action: Callable[[], object]) -> tuple[str, Any]:
        """Call in another process: how it ended, and what it returned or raised."""
        result = self.folder / "result"
        process = forked(action, result)
        process.join(SECONDS)
        if process.exitcode is None:
            process.kill()
            process.join()
            return "hangs", None
        if process.exitcode:
            number = signal.Signals(-process.exitcode)
            return "killed" if number == signal.SIGKILL else f"crashed by {number.name}", None
        answer = json.loads(result.read_text())
        return ("failed", answer["text"]) if answer["error"] else ("finished", answer["value"])


def rot(store: Path, chance: random.Random) -> None:
    """Flip a bit of a file that a killed build may resume from, and that is not published."""
    published = {path.stat().st_ino for path in store.glob("[!.]*/**/*")}
    kept = sorted(path for path in store.glob(".scratch/**/*") if path.is_file())
    if files := [path for path in kept if path.stat().st_ino not in published]:
        path = chance.choice(files)
        if data := bytearray(path.read_bytes()):
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
            path.write_bytes(data)


def main(kind: str, folder: Path) -> None:
    logging.disable()
    lineage.draw_nothing()
    tqdm.monitor_interval = 0
    campaign = Campaign(folder)
    if kind == "sample":
        campaign.inject(SAMPLE, to_end_every=20)
        campaign.lose_power(4)
    elif kind == "faults":
        # No multiple of how many faults a call has: each is met.
        campaign.inject(list(campaign.points())[::11], to_end_every=10)
        assert campaign.ends.total() >= 2_000
    else:
        campaign.lose_power(240)
    print(*campaign.ends.items(), *campaign.problems, sep="\n")
    assert not campaign.problems
    if kind == "sample":
        assert {end for *_, end in campaign.ends} == {"finished", "killed", "failed"}
        campaign.lose_power(2, fsync=False)
        assert campaign.problems, "it finds what fsync is for"


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
