"""Experiments: the measurements on a data set of the benchmark.

Plain data, without torch. Does not belong here: measuring (`measuring`), means of figures
(`summary`).
"""

from dataclasses import dataclass
from typing import Literal

from .settings import ElevaterConfig
from .shots import FULL

COLUMNS = [
    *("dataset", "adaptation", "shots", "seed", "protocol", "metric", "value", "n", "expected"),
    *("layout", "images", "seconds", "learning_rate", "weight_decay", "failed_trials"),
    "unavailable",
]
"""Columns of the results; a row is one figure. A value is a fraction, or has the reason
`unavailable` and no value. `shots` are images a class, 0 zero-shot, -1 all; `expected` is the
official number of test images, of which `n` were there. `images` is the digest of the test images
and their labels, after training also of the training images, from which the shots are drawn;
figures compare only where it is equal. `seconds` are those to search and train, or to classify.
"""


@dataclass(frozen=True)
class Experiment:
    """What is measured on a data set: `zero-shot`, or an adaptation to a number of shots drawn with
    a seed.
    """

    adaptation: Literal["zero-shot", "linear-probe", "fine-tune"] = "zero-shot"
    shots: int = 0
    seed: int = 0

    @property
    def name(self) -> str:
        """Return the name without the seed: `zero-shot`, `linear-probe-5`, `fine-tune-full`."""
        shots = {0: "", FULL: "-full"}.get(self.shots, f"-{self.shots}")
        return f"{self.adaptation}{shots}"

    @property
    def folder(self) -> str:
        """Return the folder of its prediction files, as the benchmark names them: `zero_shot`,
        `linear_probe_5`, `finetuning_full`.
        """
        return self.name.replace("fine-tune", "finetuning").replace("-", "_")

    @property
    def protocols(self) -> tuple[str, ...]:
        """Return how it is read: a training by its last epoch (`clean`) and by its best on the test
        images (`elevater`).
        """
        return ("zero-shot",) if self.adaptation == "zero-shot" else ("clean", "elevater")


def experiments(config: ElevaterConfig) -> list[Experiment]:
    """List what is measured on each data set. Full shot has one seed: nothing is drawn."""
    planned = [Experiment()]
    for adaptation in config.adaptations:
        for shots in config.shots:
            seeds = 1 if shots == FULL else config.seeds
            planned += [Experiment(adaptation, shots, seed) for seed in range(seeds)]
    return planned
