"""A campaign of faults, one after another: `python campaign.py FOLDER TASKS POINTS TO_END_EVERY`.

Started with the shim loaded (`shim.environment`), it runs the first tasks of the lineage once, and
forks a process for each fault: loading torch takes seconds each time. A fault meets one task, on a
copy of the project as it was before this task: run it under the fault, look at what is visible, run
it again undisturbed, compare; behind some faults, go on to the end of the lineage. The points are a
JSON list, or a number N for every N-th there is. What became of them is in FOLDER/outcome.json.
"""

from __future__ import annotations

import json
import logging
import os
import posix
import random
import select
import shutil
import signal
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

from harness import lineage  # noqa: E402
from harness.shim import FAULTS, KINDS, attached  # noqa: E402
from tqdm import tqdm  # noqa: E402

# `conftest`, which `lineage` imports, leaves the disk out.
os.fsync = posix.fsync

SECONDS = 900
"""A process that takes longer hangs."""

Point = tuple[int, str, int, str]
"""Task, kind of call, its number, what is done to it."""


class Campaign:
    """The project before each task, in `folder`, and what became of the faults.

    Attributes:
        ends: By kind of call, fault and end of the disturbed run: how often.
        problems: What was torn, or not repaired by the next run; a line each with its fault.
    """

    def __init__(self, folder: Path, tasks: int) -> None:
        """Run the first tasks of the lineage."""
        self.folder, self.tasks, self.state = folder, tasks, attached()
        self.work = folder / "work"
        self.ends = Counter[tuple[str, str, str]]()
        self.problems: list[str] = []
        undisturbed = folder / "undisturbed"
        undisturbed.mkdir()
        lineage.write_inputs(undisturbed)
        for task in range(tasks):
            shutil.copytree(undisturbed, self.before(task))
            lineage.run(undisturbed, task, task + 1)
            lineage.forget()
        self.expected = lineage.published(undisturbed, tasks)

    def before(self, task: int) -> Path:
        """The project as it was before a task."""
        return self.folder / f"before-{task}"

    def begin(self, task: int) -> None:
        """Make a fresh copy to work on."""
        self.state.release()
        shutil.rmtree(self.work, ignore_errors=True)
        shutil.copytree(self.before(task), self.work)

    def points(self) -> Iterator[Point]:
        """Every fault there is."""
        for task in range(self.tasks):
            self.begin(task)
            self.state.watch(self.work)
            ended = self.run_apart(task)
            assert ended == ["finished"], ended
            for kind, count in zip(KINDS, list(self.state.counts), strict=True):
                for n in range(1, count + 1):
                    yield from ((task, kind, n, fault) for fault in FAULTS[kind])

    def inject(self, point: Point, *, to_end: bool) -> None:
        """Inject one fault, and note how it ended and what is wrong after it."""
        task, kind, n, fault = point
        self.begin(task)
        self.state.inject(self.work, kind, n, fault)
        ended = self.run_apart(task)
        self.state.release()
        if fault == "rot":
            rot(self.work / "store" / ".scratch", random.Random(n))  # noqa: S311 - reproducible
        last = self.tasks if to_end else task + 1
        after = forked(lambda: self.recover(task, last))
        end = ended[0] if self.state.fired else "not reached"
        self.ends[kind, fault, end] += 1
        place = self.state.where.decode().removeprefix(str(self.work))
        where = f"{' '.join(lineage.TASKS[task])}, {kind} {n}, {fault} at {place}, {end}"
        if end.startswith(("hangs", "crashed")):
            self.problems.append(f"{where}: {''.join(ended[2:])}")
        if after != ["finished"]:
            self.problems += [f"{where}: {problem}" for problem in after]

    def run_apart(self, task: int) -> list[str]:
        """Run a task in another process."""
        return forked(lambda: lineage.run(self.work, task, task + 1))

    def recover(self, first: int, last: int) -> list[str]:
        """What is wrong with a project after a fault, and after a run without one."""
        found = [f"torn: {text}" for text in lineage.torn(self.work)]
        lineage.forget()
        try:
            lineage.run(self.work, first, last)
        except Exception as error:
            return [
                *found,
                f"the next run: {type(error).__name__}: {error}\n{traceback.format_exc(limit=-4)}",
            ]
        found += lineage.differences(self.expected, self.work, last)
        return found + [f"left over: {name}" for name in lineage.left_over(self.work)]


def rot(folder: Path, chance: random.Random) -> None:
    """Flip a bit of a file that a killed build may resume from."""
    if files := sorted(path for path in folder.rglob("*") if path.is_file()):
        path = chance.choice(files)
        data = bytearray(path.read_bytes())
        if data:
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        path.write_bytes(data)


def forked(body: Callable[[], list[str] | None]) -> list[str]:
    """Run in another process: the lines it returns, "finished" without any, or how it ended."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        try:
            text = body() or ["finished"]
        except BaseException as error:
            detail = traceback.format_exc(limit=-4)
            text = [lineage.explained(error), f"{type(error).__name__}: {error}", detail]
        with os.fdopen(writing, "w") as pipe:
            pipe.write(json.dumps(text))
        os._exit(0)
    os.close(writing)
    data, more = b"", b"-"
    while more and select.select([reading], [], [], SECONDS)[0]:
        data += (more := os.read(reading, 1 << 16))
    if more:
        os.kill(child, signal.SIGKILL)
    os.close(reading)
    _, status = os.waitpid(child, 0)
    if more:
        return ["hangs"]
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        return ["killed" if number == signal.SIGKILL else f"crashed: signal {number}"]
    return list(json.loads(data))


def main() -> None:
    """Run the campaign that the arguments name."""
    folder, tasks = Path(sys.argv[1]), int(sys.argv[2])
    given, to_end_every = json.loads(sys.argv[3]), int(sys.argv[4])
    logging.disable()
    lineage.draw_nothing()
    tqdm.monitor_interval = 0
    campaign = Campaign(folder, tasks)
    points = given if isinstance(given, list) else list(campaign.points())[::given]
    for number, point in enumerate(points):
        campaign.inject(point, to_end=number % to_end_every == to_end_every - 1)
    ends = [[*end, count] for end, count in campaign.ends.items()]
    outcome = {"ends": ends, "problems": campaign.problems}
    (folder / "outcome.json").write_text(json.dumps(outcome))


if __name__ == "__main__":
    main()
