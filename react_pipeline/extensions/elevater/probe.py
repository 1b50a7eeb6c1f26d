"""Linear probe: a linear head on the features of a frozen image tower, trained as ELEVATER does.

All trials of a round see the same batches in the same order, so they are one problem with T heads
side by side: one matrix product a batch. Each trial's numbers are those it would have alone, up to
rounding. Does not belong here: the head (`head`), which trials to run (`sweep`). Shapes: N
examples, D width of the features, C classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - PyTorch's own short name

from react_pipeline.extensions.elevater.head import MOMENTUM, SEED, Head, batches, losses, record
from react_pipeline.extensions.elevater.shots import Indices, Split
from react_pipeline.extensions.elevater.sweep import Adaptation, Curve, Trial, adapt

TRIALS_AT_ONCE = 64
"""Bounds the memory: weights, gradients and moments of so many heads, and logits of a batch."""


@dataclass(frozen=True)
class FeatureExamples:
    """Features with labels.

    Attributes:
        features: (N, D), float, not normalised: as the image tower gives them.
        labels: Class ids (N,), int64, or indicators (N, C) for multilabel data.
    """

    features: Tensor
    labels: Tensor

    def subset(self, indices: Indices) -> Self:
        """The examples at `indices`, in that order."""
        chosen = torch.from_numpy(indices)
        return type(self)(self.features[chosen], self.labels[chosen])


def linear_probe(
    train: FeatureExamples, test: FeatureExamples, head: Head, split: Split, metric: str
) -> Adaptation:
    """Search and train a linear probe: `sweep.adapt`."""
    return adapt(
        lambda train, evaluation, trials, **how: train_heads(
            train, evaluation, head, trials, metric, **how
        ),
        *(train, test, split),
    )


def train_heads(
    train: FeatureExamples,
    evaluation: FeatureExamples,
    head: Head,
    trials: Sequence[Trial],
    metric: str,
    *,
    epochs: int,
    keep_probabilities: bool = False,
) -> list[Curve]:
    """Train one head for each trial, all from the same start and on the same batches.

    SGD with momentum at a constant learning rate; weight decay on everything that trains. A batch
    of a single example is skipped: it has no batch statistics. A trial whose values overflow fails
    and costs nothing more.

    Args:
        evaluation: Examples to measure on after each epoch.
        keep_probabilities: Whether the curves hold the probabilities of the best and of the last
            epoch.

    Raises:
        InputError: If the metric cannot be measured on `evaluation`.
    """
    curves = [Curve(trial, n_trainable=head.weight.numel() + head.bias.numel()) for trial in trials]
    for start in range(0, len(curves), TRIALS_AT_ONCE):
        group = _HeadGroup(head, curves[start : start + TRIALS_AT_ONCE], train.features.device)
        generator = torch.Generator().manual_seed(SEED)
        for _ in range(epochs):
            for batch in batches(len(train.features), generator):
                group.step(train.features[batch], train.labels[batch])
            group.evaluate(evaluation, metric, keep_probabilities=keep_probabilities)
            if not group.curves:
                break
    return curves


class _HeadGroup:
    """T heads that train side by side; those that fail are taken out."""

    def __init__(self, head: Head, curves: list[Curve], device: torch.device) -> None:
        start = head.weight.to(device)
        n_classes, width = start.shape
        count = len(curves)
        self.curves = curves
        # Without scale and shift the statistics are the same for all trials.
        self.norm = nn.BatchNorm1d(width, affine=False).to(start)
        self.rates = start.new_tensor([curve.trial.learning_rate for curve in curves])
        self.decays = start.new_tensor([curve.trial.weight_decay for curve in curves])
        self.parameters = [
            start.expand(count, n_classes, width).clone(),
            head.bias.to(start).expand(count, n_classes).clone(),
        ]
        self.moments = [torch.zeros_like(values) for values in self.parameters]

    def step(self, features: Tensor, labels: Tensor) -> None:
        weight, bias = leaves = [values.requires_grad_() for values in self.parameters]
        count, n_classes, width = weight.shape
        inputs = self.norm.train()(features.to(weight))
        flat = F.linear(inputs, weight.view(count * n_classes, width), bias.view(-1))
        gradients = torch.autograd.grad(
            losses(flat.view(len(inputs), count, n_classes), labels).sum(), leaves
        )
        with torch.no_grad():
            for values, gradient, moment in zip(
                self.parameters, gradients, self.moments, strict=True
            ):
                shape = (count,) + (1,) * (values.ndim - 1)
                moment.mul_(MOMENTUM).add_(gradient).addcmul_(values, self.decays.view(shape))
                values.addcmul_(moment, self.rates.view(shape), value=-1)

    @torch.no_grad()
    def evaluate(
        self, evaluation: FeatureExamples, metric: str, *, keep_probabilities: bool
    ) -> None:
        inputs = self.norm.eval()(evaluation.features.to(self.rates))
        going = []
        # One trial at a time: the logits of all of them could be large.
        for place, (curve, weight, bias) in enumerate(
            zip(self.curves, *self.parameters, strict=True)
        ):
            logits = F.linear(inputs, weight, bias)
            if record(
                curve, logits, evaluation.labels, metric, keep_probabilities=keep_probabilities
            ):
                going.append(place)
        if len(going) < len(self.curves):
            self.curves = [self.curves[place] for place in going]
            self.rates = self.rates[going]
            self.decays = self.decays[going]
            self.parameters = [values.detach()[going] for values in self.parameters]
            self.moments = [values[going] for values in self.moments]
