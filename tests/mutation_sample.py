"""A seeded sample of mutants that no row of `mutations.py` names: `python tests/mutation_sample.py
SEED COUNT`.

A third number is how many of them earlier runs tried: the order depends on the seed alone.

A mutant turns off one condition that raises, returns, or skips; lets go of one lock; takes digests
for equal; or drops one bound. The tests that name its module must fail then. Survivors are printed,
to be given a test, or a reason in `HARMLESS`.
"""

from __future__ import annotations

import ast
import random
import re
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mutations import FAILED, LEFT_OUT, NO_TESTS, ROOT, TIMED_OUT, _code

HARMLESS: dict[str, str] = {
    'image.height <= rows or image.mode == "RGB"': "one band, or bands of RGB: the same pixels",
    "not self.classes": "without reviewed images every step of `place` keeps all candidates",
    "location.is_relative_to(own)": "files of the artifact have the digest that is recorded",
    "event.asset_key is None": "a materialization has one; the type of events allows none",
    "_loaded": "a worker would decode in a process of its own: the same pixels",
    "LOSS not in run.data.metrics": "saves a request: MLflow has no point of such a metric",
    "threads == 1": "a pool of one thread gives the same",
    "len(left_out) < LEAST_CALIBRATED": "saves a second fit, whose few pairs are not calibrated on",
    "start + len(block) > rows[-1]": "later blocks hold none of the rows",
    "min(missing, FIRST_LOOK_ROWS)": "how many rows are compared together: the same are taken",
}
"""Source of conditions of survivors, and why nothing breaks without them."""

NEAREST = 6
"""Files of tests that a mutant must survive."""

_LEAVES = (ast.Raise, ast.Return, ast.Continue, ast.Break)
_DIGESTS = re.compile(r"sha256|digest|fingerprint")


@dataclass(frozen=True)
class Mutant:
    """A part of a file, by its bytes, and what takes its place."""

    file: str
    start: int
    end: int
    replacement: str

    def changed(self, source: bytes) -> bytes:
        """The file with the mutant."""
        return source[: self.start] + self.replacement.encode() + source[self.end :]


def mutants_of(path: Path) -> Iterator[Mutant]:
    """Every mutant of a file."""
    source = path.read_bytes()
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    name = str(path.relative_to(ROOT))

    def mutant(node: ast.expr, replacement: str) -> Mutant:
        assert node.end_lineno is not None and node.end_col_offset is not None
        start = starts[node.lineno - 1] + node.col_offset
        return Mutant(name, start, starts[node.end_lineno - 1] + node.end_col_offset, replacement)

    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.If) and isinstance(node.body[-1], _LEAVES):
            # Names that the condition binds are read behind it.
            if not any(isinstance(inner, ast.NamedExpr) for inner in ast.walk(node.test)):
                yield mutant(node.test, "False")
        elif isinstance(node, ast.withitem) and re.search(r"lock", ast.unparse(node.context_expr)):
            if node.optional_vars is None:
                yield mutant(node.context_expr, "__import__('contextlib').nullcontext()")
        elif isinstance(node, ast.Compare) and _DIGESTS.search(ast.unparse(node)):
            if len(node.ops) == 1 and isinstance(node.ops[0], ast.Eq | ast.NotEq):
                yield mutant(node, str(isinstance(node.ops[0], ast.Eq)))
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "min" and len(node.args) == 2:
            for bound, other in (node.args, node.args[::-1]):
                if ast.unparse(bound).rpartition(".")[2].isupper():
                    yield mutant(node, ast.unparse(other))


def tests_of(file: str) -> list[str]:
    """The files of tests nearest to a module: those that name it, the one of its name first, then
    small ones; then those of its room.
    """
    path = Path(file).with_suffix("")
    module = re.escape(".".join(path.parts))
    package = re.escape(".".join(path.parent.parts))
    names = re.compile(rf"{module}\b|from {package} import [^\n]*\b{path.name}\b")
    tests = sorted((ROOT / "tests").rglob("test_*.py"))
    naming = [test for test in tests if names.search(test.read_text(encoding="utf-8"))]
    room = ROOT / "tests" / Path(*path.parent.parts[1:])
    chosen = {*naming, *(test for test in tests if test.is_relative_to(room))}

    def distance(test: Path) -> tuple[bool, bool, int]:
        return test not in naming, path.name not in test.stem, test.stat().st_size

    nearest = sorted(chosen, key=distance)[:NEAREST]
    return [str(test.relative_to(ROOT / "tests")) for test in nearest]


def _outcome(copy: Path, tests: list[str]) -> str:
    """Whether a test fails; slow ones are only run where no other does."""
    for marks in ("not slow and not gpu", "slow and not gpu"):
        code = _code(copy, *tests, marks=marks)
        if code not in (0, NO_TESTS):
            # A loop without end, or a busy machine: to be looked at.
            return "TIMED OUT" if code == TIMED_OUT else "killed" if code <= FAILED else "BROKEN"
    return "SURVIVED"


def main(seed: int, count: int, tried: int = 0) -> int:
    """Run a sample, or its rest; 1 if more than three in a hundred survive."""
    files = sorted((ROOT / "react_pipeline").rglob("*.py"))
    every = [mutant for path in files for mutant in mutants_of(path)]
    random.Random(seed).shuffle(every)  # noqa: S311
    sample = every[tried:count]
    found = Counter[str]()
    with tempfile.TemporaryDirectory(prefix="mutants-") as directory:
        copy = Path(directory, "project")
        shutil.copytree(ROOT, copy, symlinks=True, ignore=shutil.ignore_patterns(*LEFT_OUT))
        for mutant in sample:
            began = time.monotonic()
            path = copy / mutant.file
            source = path.read_bytes()
            condition = source[mutant.start : mutant.end].decode()
            if condition in HARMLESS:
                outcome = "harmless"
            elif not (tests := tests_of(mutant.file)):
                outcome = "NO TEST NAMES IT"
            else:
                path.write_bytes(mutant.changed(source))
                outcome = _outcome(copy, tests)
                path.write_bytes(source)
            found[outcome] += 1
            line = source[: mutant.start].count(b"\n") + 1
            shown = " ".join(condition.split())[:90]
            print(
                f"{outcome} | {time.monotonic() - began:5.1f} s | {mutant.file}:{line}: {shown}",
                flush=True,
            )
    print(f"seed {seed}, {len(sample)} of {len(every)} mutants: {dict(found)}")
    return int(len(sample) - found["killed"] - found["harmless"] > 0.03 * len(sample))


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
