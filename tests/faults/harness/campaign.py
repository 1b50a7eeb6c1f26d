"""Campaigns: many faults, one after another, and the counts of how they ended."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from harness.power import MODES
from harness.shim import FAULTS, environment


@dataclass
class Campaign:
    """What became of the faults.

    Attributes:
        ends: By kind of call and fault: how the disturbed run ended.
        problems: What was torn, or not repaired by the next run; a line each with its fault.
    """

    ends: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)


class Harness:
    """The zygote and the talk with it."""

    def __init__(self, folder: Path, tasks: int = 15) -> None:
        """Build the shim and run the first tasks of the lineage undisturbed, in a folder on a fast
        disk.
        """
        reading, writing = os.pipe()
        arguments = [
            sys.executable,
            str(Path(__file__).with_name("zygote.py")),
            str(folder),
            str(writing),
            str(tasks),
        ]
        env = {**environment(folder), "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            arguments, env=env, stdin=subprocess.PIPE, pass_fds=[writing], text=True, bufsize=1
        )
        os.close(writing)
        self._answers: IO[str] = os.fdopen(reading)
        self.tasks: list[list[str]] = self._answer()["tasks"]

    def __enter__(self) -> Harness:
        return self

    def __exit__(self, *_: object) -> None:
        """End the zygote."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        self._answers.close()

    def ask(self, do: str, **job: Any) -> dict[str, Any]:
        """Have one job done (`zygote.Zygote`)."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, **job}) + "\n")
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        line = self._answers.readline()
        assert line, f"the harness has ended with {self._process.wait()}"
        return dict(json.loads(line))

    def points(self) -> Iterator[tuple[int, str, int, str]]:
        """Every fault there is: task, kind of call, its number, what is done to it."""
        for task in range(len(self.tasks)):
            counted = self.ask("count", task=task)
            assert counted["ended"] == ["finished"], counted
            for kind, count in counted["counts"].items():
                for n in range(1, count + 1):
                    yield from ((task, kind, n, fault) for fault in FAULTS[kind])

    def inject(self, points: list[tuple[int, str, int, str]], *, to_end_every: int) -> Campaign:
        """Inject each of these faults; run the lineage to its end behind some of them."""
        campaign = Campaign()
        for number, (task, kind, n, fault) in enumerate(points):
            answer = self.ask(
                "inject",
                task=task,
                kind=kind,
                n=n,
                fault=fault,
                to_end=number % to_end_every == to_end_every - 1,
            )
            ended = answer["ended"][0] if answer["fired"] else "not reached"
            campaign.ends[kind, fault, ended] += 1
            where = (
                f"{' '.join(self.tasks[task])}, {kind} {n}, {fault} at {answer['where']}, {ended}"
            )
            if ended.startswith(("hangs", "crashed")):
                campaign.problems.append(f"{where}: {''.join(answer['ended'][2:])}")
            campaign.problems += [f"{where}: {problem}" for problem in answer["problems"]]
        return campaign

    def lose_power(self, cuts: int, *, fsync: bool = True) -> Campaign:
        """Lose power at so many places of the lineage, evenly spread, in each mode in turn."""
        recorded, campaign = self.ask("record", fsync=fsync), Campaign()
        assert recorded["ended"] == ["finished"], recorded
        for number in range(cuts):
            cut, mode = 1 + number * recorded["operations"] // cuts, MODES[number % len(MODES)]
            problems = self.ask("replay", fsync=fsync, cut=cut, mode=mode)["problems"]
            campaign.ends["power", mode, "not recovered" if problems else "recovered"] += 1
            campaign.problems += [
                f"power loss behind {cut}, {mode}: {problem}" for problem in problems
            ]
        return campaign
