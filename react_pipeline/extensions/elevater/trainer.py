"""Training as ELEVATER does: a linear head on features, or the image tower and a head together.

All heads of a round see the same batches in the same order, so they are one problem with T heads
side by side: one matrix product a batch. Each trial's numbers are those it would have alone, up to
rounding. A tower encodes every image in every epoch, and its trials run one after another.

Does not belong here: which trials to run (`sweep`), reading images. Shapes: N examples, B of them
in a batch, H x W pixels, D width of the features, C classes.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - PyTorch's own short name
from torch.utils.data import DataLoader

from react_pipeline.clip import Clip, arithmetic

from .metrics import measure
from .shots import Indices
from .sweep import Curve, Trial

MOMENTUM, BATCH_SIZE, SEED = 0.9, 64, 0
"""Settings of SGD and its batches, as in the benchmark; their order is the same in each trial."""

HEADS_AT_ONCE = 64
"""Bounds the memory: weights, gradients and moments of so many heads, and logits of a batch."""

NOT_FINITE = "values are not finite"
"""The failure of a trial whose weights or logits overflow: learning rate times weight decay is too
large.
"""


@dataclass(frozen=True)
class FeatureExamples:
    """Features with labels.

    Attributes:
        features: (N, D), float, as a head sees them.
        labels: Class ids (N,), int64, or indicators (N, C) for multilabel data.
    """

    features: Tensor
    labels: Tensor

    def subset(self, indices: Indices) -> Self:
        """Return the examples at `indices`, in that order."""
        places = torch.from_numpy(indices)
        return type(self)(self.features[places], self.labels[places])

    def inputs(self, order: Iterable[Tensor]) -> Iterator[Tensor]:
        """Yield the features of each batch of `order`, (B, D)."""
        return (self.features[batch] for batch in order)


@dataclass(frozen=True)
class ImageExamples:
    """Images with labels.

    Attributes:
        read: The number of an image to its preprocessed tensor (3, H, W), float32; the same each
            time.
        labels: Class ids (N,), int64, or indicators (N, C) for multilabel data.
        numbers: What `read` is called with, for each label; 0 to N - 1 if None.
        workers: Processes that read images ahead; 0 reads in this process.
    """

    read: Callable[[int], Tensor]
    labels: Tensor
    numbers: Indices | None = None
    workers: int = 0

    def subset(self, indices: Indices) -> Self:
        """Return the examples at `indices`, in that order."""
        numbers = indices if self.numbers is None else self.numbers[indices]
        return type(self)(self.read, self.labels[torch.from_numpy(indices)], numbers, self.workers)

    def inputs(self, order: Iterable[Tensor]) -> DataLoader[Tensor]:
        """Load the images of each batch of `order`, (B, 3, H, W)."""
        numbers = [batch.tolist() for batch in order]
        return DataLoader(self, batch_sampler=numbers, num_workers=self.workers)  # type: ignore[arg-type]

    def __getitem__(self, position: int) -> Tensor:
        return self.read(position if self.numbers is None else int(self.numbers[position]))


@dataclass(frozen=True)
class Trainer:
    """Trains a fresh model for each trial, all from the same start and on the same batches.

    SGD with momentum at a constant learning rate; weight decay on everything that trains. A trial
    whose values overflow fails.

    Attributes:
        start: The weight (C, D) that each head starts from: class vectors of the text tower. Its
            bias starts from 0.
        metric: What is measured after each epoch.
        clip: The model whose image tower trains too, on `ImageExamples`; None: heads alone, on
            `FeatureExamples`. It is never changed.
    """

    start: Tensor
    metric: str
    clip: Clip | None = None

    @arithmetic()
    def __call__(
        self,
        train: Any,
        evaluation: Any,
        trials: Sequence[Trial],
        *,
        epochs: int,
        keep_probabilities: bool = False,
    ) -> list[Curve]:
        """Train on some examples, and measure on others.

        Args:
            keep_probabilities: Whether the curves hold the probabilities of the best epoch.

        Raises:
            InputError: If the metric cannot be measured on `evaluation`.
        """
        curves = [Curve(trial) for trial in trials]
        at_once = HEADS_AT_ONCE if self.clip is None else 1
        for first in range(0, len(trials), at_once):
            together = curves[first : first + at_once]
            models = _Models(self, trials[first : first + at_once], train.labels.device)
            with torch.random.fork_rng():
                torch.manual_seed(SEED)  # dropout of the tower, if it has any
                generator = torch.Generator().manual_seed(SEED)
                for _ in range(epochs):
                    order = list(_batches(len(train.labels), generator))
                    for batch, inputs in zip(order, train.inputs(order), strict=True):
                        models.step(inputs, train.labels[batch])
                    for curve, logits in zip(together, models.logits(evaluation), strict=True):
                        if not curve.failure:
                            self._record(curve, logits, evaluation.labels, keep_probabilities)
                    if all(curve.failure for curve in together):
                        break
        return curves

    def _record(self, curve: Curve, logits: Tensor, labels: Tensor, keep: bool) -> None:
        """Add an epoch's logits (N, C) to the curve of its trial, or their failure."""
        if not torch.isfinite(logits).all():
            curve.failure = NOT_FINITE
            return
        # The benchmark takes softmax for multilabel data too.
        probabilities = logits.softmax(dim=-1).float().cpu().numpy()
        score = measure(self.metric, labels.cpu().numpy(), probabilities)
        if keep and (not curve.scores or score > max(curve.scores)):
            curve.best_probabilities = probabilities
        curve.scores.append(score)


class _Models:
    """T heads side by side on fixed features, or one head on a fresh copy of the tower.

    Batch normalisation without scale and shift comes between: its statistics are the same for all
    heads. A tower is in training mode, as in the benchmark: a ResNet's batch statistics move. A
    head that overflows leaves the others alone.
    """

    def __init__(self, trainer: Trainer, trials: Sequence[Trial], device: torch.device) -> None:
        clip = trainer.clip
        self.device = torch.device(clip.device) if clip else device
        self.tower = deepcopy(clip.model.visual).requires_grad_(True) if clip else None
        weight = trainer.start.to(self.device).expand(len(trials), *trainer.start.shape)
        self.norm = nn.BatchNorm1d(weight.shape[2], affine=False).to(weight)
        self.rates = weight.new_tensor([trial.learning_rate for trial in trials])
        self.decays = weight.new_tensor([trial.weight_decay for trial in trials])
        heads = [weight.clone(), weight.new_zeros(weight.shape[:2])]
        tower = [] if self.tower is None else list(self.tower.parameters())
        self.parameters = [values.requires_grad_() for values in (*heads, *tower)]
        self.moments = [torch.zeros_like(values) for values in self.parameters]

    def step(self, inputs: Tensor, labels: Tensor) -> None:
        """Take one step on a batch."""
        weight, bias, *_ = self.parameters
        self.norm.train()
        features = self.norm(self._features(inputs.to(self.device), training=True))
        flat = F.linear(features, weight.flatten(0, 1), bias.flatten())
        loss = _losses(flat.unflatten(1, bias.shape), labels.to(self.device))
        gradients = torch.autograd.grad(loss.sum(), self.parameters, allow_unused=True)
        with torch.no_grad():
            for values, gradient, moment in zip(
                self.parameters, gradients, self.moments, strict=True
            ):
                if gradient is None:
                    continue
                # A head has its trial's rate. The trial of a tower is the only one: (1, ...).
                shape = values.shape[:1] and (-1, *[1] * (values.ndim - 1))
                moment.mul_(MOMENTUM).add_(gradient)
                moment.addcmul_(values, self.decays.view(shape))
                values.addcmul_(moment, self.rates.view(shape), value=-1)

    @torch.no_grad()
    def logits(self, examples: Any) -> Iterator[Tensor]:
        """Yield the logits (N, C) of each trial: those of all could be large."""
        order = torch.arange(len(examples.labels)).split(BATCH_SIZE)
        parts = [self._features(part.to(self.device)) for part in examples.inputs(order)]
        features = self.norm.eval()(torch.cat(parts))
        for weight, bias in zip(*self.parameters[:2], strict=True):
            yield F.linear(features, weight, bias)

    def _features(self, inputs: Tensor, *, training: bool = False) -> Tensor:
        """Return what a head sees: inputs (B, D), or the tower's unit features of images."""
        if self.tower is None:
            return inputs.to(self.rates)
        return F.normalize(self.tower.train(training)(inputs), dim=-1)


def _batches(n: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield indices of one epoch's batches, shuffled; none of a single example, which has no batch
    statistics. The order is that of PyTorch's loader.
    """
    loader: DataLoader[Tensor] = DataLoader(
        range(n),  # type: ignore[arg-type]  # a range is a dataset of indices
        batch_size=BATCH_SIZE,
        shuffle=True,
        generator=generator,
        collate_fn=torch.tensor,
    )
    return (batch for batch in loader if len(batch) > 1)


def _losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Return each trial's mean loss (T,) of logits (B, T, C) and labels (B,) or, for multilabel
    data, (B, C).
    """
    if labels.ndim == 2:
        targets = labels.to(logits.dtype)[:, None].expand_as(logits)
        return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean((0, 2))
    targets = labels[:, None].expand(logits.shape[:2])
    return F.cross_entropy(logits.transpose(1, 2), targets, reduction="none").mean(dim=0)
