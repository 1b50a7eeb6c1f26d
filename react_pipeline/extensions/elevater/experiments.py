"""What is measured on a data set of the benchmark, and the form of one figure.

Plain data, without torch. Does not belong here: measuring (`measuring`), means of figures
(`summary`).
"""

from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict

from .settings import ElevaterConfig
from .shots import FULL

Protocol = Literal["zero-shot", "elevater", "clean"]


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
        """Without the seed: `zero-shot`, `linear-probe-5`, `fine-tune-full`."""
        shots = {0: "", FULL: "-full"}.get(self.shots, f"-{self.shots}")
        return f"{self.adaptation}{shots}"

    @property
    def folder(self) -> str:
        """Of its prediction files, as the benchmark names them: `zero_shot`, `linear_probe_5`,
        `finetuning_full`.
        """
        return self.name.replace("fine-tune", "finetuning").replace("-", "_")

    @property
    def protocols(self) -> tuple[Protocol, ...]:
        """How it is read: a training by its last epoch (`clean`) and by its best on the test images
        (`elevater`).
        """
        return ("zero-shot",) if self.adaptation == "zero-shot" else ("clean", "elevater")


class Measurement(BaseModel):
    """One figure. A value is a fraction; what could not be measured has a reason and no value.

    Attributes:
        adaptation: Of the experiment, as `shots` and `seed`.
        shots: Training images a class; 0 zero-shot, -1 all.
        value: None if it is unavailable.
        expected: Official number of test images; a figure of fewer is not the benchmark's.
        images: Digest of the test images and their labels, after training also of the training
            images, from which the shots are drawn; figures compare only where it is equal.
        seconds: To search and train, or to classify; encoding is counted with the features.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str
    adaptation: str
    shots: int
    seed: int
    protocol: Protocol
    metric: str
    value: float | None = None
    n: int = 0
    expected: int
    layout: str = ""
    images: str = ""
    seconds: float = 0.0
    learning_rate: float | None = None
    weight_decay: float | None = None
    failed_trials: int = 0
    unavailable: str | None = None


def experiments(config: ElevaterConfig) -> list[Experiment]:
    """What is measured on each data set, in order. Full shot has one seed: nothing is drawn."""
    planned = [Experiment()]
    for adaptation in config.adaptations:
        for shots in config.shots:
            seeds = 1 if shots == FULL else config.seeds
            planned += [Experiment(adaptation, shots, seed) for seed in range(seeds)]
    return planned
