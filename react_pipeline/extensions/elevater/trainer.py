"""Training as ELEVATER does: a linear probe on features, or the image tower and a head together.

All heads of a round see the same batches in the same order, so they are one problem with T heads
side by side: one matrix product a batch. Each trial's numbers are those it would have alone, up to
rounding. A tower encodes every image in every epoch, and its trials run one after another.

Does not belong here: the head (`head`), which trials to run (`sweep`), reading images. Shapes: N
examples, B of them in a batch, H x W pixels, D width of the features, C classes.
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

from .head import (
    BATCH_SIZE,
    MOMENTUM,
    NOT_FINITE,
    SEED,
    Head,
    batches,
    losses,
    record,
)
from .shots import Indices
from .sweep import Curve, Trial

HEADS_AT_ONCE = 64
"""Bounds the memory: weights, gradients and moments of so many heads, and logits of a batch."""


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
        """The examples at `indices`, in that order."""
        places = torch.from_numpy(indices)
        return type(self)(self.features[places], self.labels[places])

    def inputs(self, order: Iterable[Tensor]) -> Iterator[Tensor]:
        """The features of each batch of `order`, (B, D)."""
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
        """The examples at `indices`, in that order."""
        numbers = indices if self.numbers is None else self.numbers[indices]
        return type(self)(self.read, self.labels[torch.from_numpy(indices)], numbers, self.workers)

    def inputs(self, order: Iterable[Tensor]) -> DataLoader[Tensor]:
        """The images of each batch of `order`, (B, 3, H, W)."""
        numbers = [batch.tolist() for batch in order]
        return DataLoader(self, batch_sampler=numbers, num_workers=self.workers)  # type: ignore[arg-type]

    def __getitem__(self, position: int) -> Tensor:
        return self.read(position if self.numbers is None else int(self.numbers[position]))


@dataclass(frozen=True)
class Trainer:
    """Trains a fresh model for each trial, all from the same start and on the same batches.

    SGD with momentum at a constant learning rate; weight decay on everything that trains. A trial
    whose values overflow fails and costs nothing more.

    Attributes:
        head: Where each head starts.
        metric: What is measured after each epoch.
        clip: The model whose image tower trains too, on `ImageExamples`; None: heads alone, on
            `FeatureExamples`. It is never changed.
        normalize: Whether the head sees unit features of the tower.
    """

    head: Head
    metric: str
    clip: Clip | None = None
    normalize: bool = True

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
            keep_probabilities: Whether the curves hold the probabilities of the best and of the
                last epoch.

        Raises:
            InputError: If the metric cannot be measured on `evaluation`.
        """
        curves = []
        at_once = HEADS_AT_ONCE if self.clip is None else 1
        for start in range(0, len(trials), at_once):
            group = trials[start : start + at_once]
            models: _Heads | _Tower
            if self.clip is None:
                models = _Heads(self.head, group, train.features.device)
            else:
                models = _Tower(self.head, group[0], self.clip, self.normalize)
            curves += models.curves
            with torch.random.fork_rng():
                torch.manual_seed(SEED)  # dropout of the tower, if it has any
                for _ in _epochs(models, train, epochs):
                    scored = zip(models.curves, models.logits(evaluation), strict=True)
                    for curve, logits in scored:
                        record(
                            curve,
                            logits,
                            evaluation.labels,
                            self.metric,
                            keep_probabilities=keep_probabilities,
                        )
                    models.drop_failed()
        return curves


def _epochs(models: "_Heads | _Tower", train: Any, count: int) -> Iterator[None]:
    """Train; yields after each epoch, while a model is left."""
    generator = torch.Generator().manual_seed(SEED)
    for _ in range(count):
        order = list(batches(len(train.labels), generator))
        for batch, inputs in zip(order, train.inputs(order), strict=True):
            models.step(inputs, train.labels[batch])
            if not models.curves:
                return
        yield
        if not models.curves:
            return


class _Heads:
    """T heads that train side by side."""

    def __init__(self, head: Head, trials: Sequence[Trial], device: torch.device) -> None:
        start = head.weight.to(device)
        n_classes, width = start.shape
        count = len(trials)
        n_trainable = head.weight.numel() + head.bias.numel()
        self.curves = [Curve(trial, n_trainable=n_trainable) for trial in trials]
        # Without scale and shift the statistics are the same for all trials.
        self.norm = nn.BatchNorm1d(width, affine=False).to(start)
        self.rates = start.new_tensor([trial.learning_rate for trial in trials])
        self.decays = start.new_tensor([trial.weight_decay for trial in trials])
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
        loss = losses(flat.view(len(inputs), count, n_classes), labels).sum()
        gradients = torch.autograd.grad(loss, leaves)
        with torch.no_grad():
            for values, gradient, moment in zip(
                self.parameters, gradients, self.moments, strict=True
            ):
                shape = (count,) + (1,) * (values.ndim - 1)
                moment.mul_(MOMENTUM).add_(gradient).addcmul_(values, self.decays.view(shape))
                values.addcmul_(moment, self.rates.view(shape), value=-1)

    def logits(self, examples: FeatureExamples) -> Iterator[Tensor]:
        inputs = self.norm.eval()(examples.features.to(self.rates))
        weights, biases = (values.detach() for values in self.parameters)
        # One trial at a time: the logits of all of them could be large.
        for weight, bias in zip(weights, biases, strict=True):
            yield F.linear(inputs, weight, bias)

    def drop_failed(self) -> None:
        going = [place for place, curve in enumerate(self.curves) if not curve.failure]
        if len(going) < len(self.curves):
            self.curves = [self.curves[place] for place in going]
            self.rates = self.rates[going]
            self.decays = self.decays[going]
            self.parameters = [values.detach()[going] for values in self.parameters]
            self.moments = [values[going] for values in self.moments]


class _Tower:
    """A fresh copy of the tower, unit vectors, batch normalisation without scale and shift, a head.

    The tower is in training mode, as in the benchmark: a ResNet's batch statistics move.
    """

    def __init__(self, head: Head, trial: Trial, clip: Clip, normalize: bool) -> None:
        visual = deepcopy(clip.model.visual).requires_grad_(True)
        n_classes, width = head.weight.shape
        linear = nn.Linear(width, n_classes)
        linear.load_state_dict({"weight": head.weight, "bias": head.bias})
        norm = nn.BatchNorm1d(width, affine=False)
        self.device = clip.device
        unit = _UnitVectors() if normalize else nn.Identity()
        self.model = nn.Sequential(visual, unit, norm, linear).to(clip.device)
        parameters = list(self.model.parameters())
        self.optimizer = torch.optim.SGD(
            parameters, trial.learning_rate, MOMENTUM, weight_decay=trial.weight_decay
        )
        n_trainable = sum(parameter.numel() for parameter in parameters)
        self.curves = [Curve(trial, n_trainable=n_trainable)]

    @arithmetic()
    def step(self, images: Tensor, labels: Tensor) -> None:
        logits = self.model.train()(images.to(self.device))
        loss = losses(logits[:, None], labels.to(self.device)).sum()
        if not torch.isfinite(loss):
            self.curves[0].failure = NOT_FINITE
            self.drop_failed()
            return
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    @arithmetic()
    @torch.inference_mode()
    def logits(self, examples: ImageExamples) -> list[Tensor]:
        self.model.eval()
        order = torch.arange(len(examples.labels)).split(BATCH_SIZE)
        return [torch.cat([self.model(part.to(self.device)) for part in examples.inputs(order)])]

    def drop_failed(self) -> None:
        self.curves = [curve for curve in self.curves if not curve.failure]


class _UnitVectors(nn.Module):
    def forward(self, features: Tensor) -> Tensor:
        return F.normalize(features, dim=-1)
