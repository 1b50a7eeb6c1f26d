"""A process that has run the lineage once, and forks a process for each fault: loading torch takes
seconds each time.

Started with the shim loaded (`shim.environment`): `python zygote.py FOLDER DESCRIPTOR TASKS`. Reads
a job a line from its input, writes an answer a line to the descriptor. A job is of one task, on a
copy of the project as it was before this task: run it under the fault, look at what is visible, run
it again undisturbed, compare. `to_end` goes on to the end of the lineage.
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
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

from harness import lineage, power  # noqa: E402
from harness.shim import KINDS, attached  # noqa: E402
from tqdm import tqdm  # noqa: E402

# `conftest`, which `lineage` imports, leaves the disk out.
os.fsync = posix.fsync

SECONDS = 900
"""A process that takes longer hangs."""


class Zygote:
    """The project before each task, in `folder`, and what an undisturbed run ends with."""

    def __init__(self, folder: Path, tasks: int) -> None:
        """Run the first tasks of the lineage."""
        self.folder, self.tasks, self.state = folder, tasks, attached()
        undisturbed = folder / "undisturbed"
        undisturbed.mkdir()
        lineage.write_inputs(undisturbed)
        for task in range(tasks):
            shutil.copytree(undisturbed, self.before(task))
            lineage.run(undisturbed, task, task + 1)
            lineage.forget()
        self.reference = lineage.published(undisturbed, tasks)

    def before(self, task: int) -> Path:
        """The project as it was before a task."""
        return self.folder / f"before-{task}"

    def answer(self, job: dict[str, Any]) -> dict[str, Any]:
        """Do one job."""
        work = self.folder / "work"
        shutil.rmtree(work, ignore_errors=True)
        try:
            found: dict[str, Any] = getattr(self, job.pop("do"))(work, **job)
            return found
        finally:
            self.state.release()
            shutil.rmtree(work, ignore_errors=True)

    def count(self, work: Path, task: int) -> dict[str, Any]:
        """How many calls of each kind a task makes."""
        shutil.copytree(self.before(task), work)
        self.state.watch(work)
        ended = forked(lambda: lineage.run(work, task, task + 1))
        return {"ended": ended, "counts": dict(zip(KINDS, self.state.counts, strict=True))}

    def inject(
        self, work: Path, task: int, kind: str, n: int, fault: str, to_end: bool
    ) -> dict[str, Any]:
        """One fault."""
        shutil.copytree(self.before(task), work)
        self.state.inject(work, kind, n, fault)
        ended = forked(lambda: lineage.run(work, task, task + 1))
        self.state.release()
        if fault == "rot":
            rot(work / "store", random.Random(n))  # noqa: S311 - reproducible
        last = self.tasks if to_end else task + 1
        problems = self.problems(work, task, last)
        fired, where = bool(self.state.fired), self.state.where.decode().removeprefix(str(work))
        return {
            "ended": ended,
            "fired": fired,
            "where": where,
            "problems": problems,
        }

    def problems(self, work: Path, first: int, last: int) -> list[str]:
        """What is wrong after a fault, and how the next run ended if not well."""
        after = forked(lambda: self.recover(work, first, last))
        return [] if after == ["finished"] else after

    def recover(self, work: Path, first: int, last: int) -> list[str]:
        """What is wrong with a project after a fault, and after a run without one."""
        found = [f"torn: {text}" for text in lineage.torn(work)]
        lineage.forget()
        try:
            lineage.run(work, first, last)
        except Exception as error:
            return [
                *found,
                f"the next run: {type(error).__name__}: {error}\n{traceback.format_exc(limit=-4)}",
            ]
        expected = dict([*self.reference.items()][:last])
        found += lineage.differences(expected, work)
        return found + [f"left over: {name}" for name in lineage.left_over(work)]

    def record(self, work: Path, fsync: bool) -> dict[str, Any]:
        """Run the whole lineage and keep what it does to the disk; without fsync, if asked."""
        log = self.folder / f"log-{fsync}"
        log.unlink(missing_ok=True)
        shutil.copytree(self.before(0), work)
        self.state.record(work, log)

        def body() -> None:
            if not fsync:
                os.fsync = lambda _: None
            lineage.run(work, 0, self.tasks)

        ended = forked(body)
        self.state.release()
        return {"ended": ended, "operations": power.length(log)}

    def replay(self, work: Path, fsync: bool, cut: int, mode: str) -> dict[str, Any]:
        """The disk after a power loss behind so many operations, and the next run."""
        power.write_state(self.folder / f"log-{fsync}", self.before(0), work, cut, mode)
        return {"problems": self.problems(work, 0, self.tasks)}


def rot(store: Path, chance: random.Random) -> None:
    """Flip a bit of a file that a killed build may resume from, and that is not published."""
    published = {path.stat().st_ino for path in store.glob("[!.]*/**/*")}
    kept = sorted(path for path in (store / ".scratch").rglob("*") if path.is_file())
    if files := [path for path in kept if path.stat().st_ino not in published]:
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
        return [
            "killed"
            if os.WTERMSIG(status) == signal.SIGKILL
            else f"crashed: signal {os.WTERMSIG(status)}"
        ]
    return list(json.loads(data))


def main() -> None:
    """Serve."""
    folder, descriptor, tasks = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    logging.disable()
    lineage.draw_nothing()
    tqdm.monitor_interval = 0
    with os.fdopen(descriptor, "w") as answers:
        zygote = Zygote(folder, tasks)
        answers.write(json.dumps({"tasks": lineage.TASKS[:tasks]}) + "\n")
        answers.flush()
        for line in sys.stdin:
            answers.write(json.dumps(zygote.answer(json.loads(line))) + "\n")
            answers.flush()


if __name__ == "__main__":
    main()
