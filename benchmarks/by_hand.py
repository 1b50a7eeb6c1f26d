"""What the pipeline costs beside the 80 lines that do the same: seconds of both in one run.

`python -m benchmarks.by_hand` makes the demo's domain `activities` from nothing, with base,
`gated-image` and its control, by `examples/react_by_hand.py` and by `react-pipeline materialize`
in an empty folder. Both render the same drawings. Prints wall and processor seconds, and the
ratio.
"""

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

EXAMPLE = Path(__file__).parents[1] / "examples" / "react_by_hand.py"
REACT = [sys.executable, "-m", "react_pipeline"]
METHODS = ("base", "gated-image", "gated-image-control")


def seconds(*commands: list[str], folder: Path) -> tuple[float, float]:
    """Run commands in a folder; return their wall and processor seconds together."""
    began = time.monotonic()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    for command in commands:
        subprocess.run(command, cwd=folder, check=True)  # noqa: S603 - our own programs
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.monotonic() - began, used


def main() -> None:
    """Measure both, the example first."""
    chosen = [word for method in METHODS for word in ("--method", method)]
    with tempfile.TemporaryDirectory() as name:
        by_hand = seconds([sys.executable, str(EXAMPLE)], folder=Path(name))
        pipeline = seconds(
            [*REACT, "init", ".", "--corpus", "demo"],
            [*REACT, "materialize", "--domain", "activities", *chosen],
            folder=Path(name),
        )
    for what, (wall, used) in (("by hand", by_hand), ("pipeline", pipeline)):
        print(f"{what}: {wall:.0f} s, {used:.0f} s of the processor")
    print(f"ratio: {pipeline[0] / by_hand[0]:.2f}, {pipeline[1] / by_hand[1]:.2f}")


if __name__ == "__main__":
    main()
