"""ELEVATER's hyperparameter search of a linear probe: all trials of a round at once, against one
trial after another.

Run `.venv/bin/python benchmarks/evaluate.py` (`--quick` for a small set). Both sides do the whole
search on the same features and are checked against each other. The features are clusters, since
only their sizes matter here: 5,000 training examples of width 512 in 100 classes.

The naive way also encodes the images again, as a training loop over images does. That part is
composed of measured ones: seconds an image in a bare forward pass of an image tower shaped like
ViT-B/32 (random weights, a small sample of random images, no reading or decoding), times the
images, times the number of passes. Two sums are shown: encoding once for each trial, and encoding
in each epoch, as the benchmark's own toolkit does. Ours encodes once for all.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

import torch
from open_clip import create_model
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from react_pipeline.extensions.elevater.head import (
    BATCH_SIZE,
    MOMENTUM,
    NOT_FINITE,
    SEED,
    Head,
    record,
)
from react_pipeline.extensions.elevater.shots import split_training
from react_pipeline.extensions.elevater.sweep import SWEEP_EPOCHS, Curve, SweepResult, Trial, sweep
from react_pipeline.extensions.elevater.trainer import FeatureExamples, Trainer


def clusters(n: int, width: int, n_classes: int) -> FeatureExamples:
    """Features around one centre a class, so noisy that trials differ."""
    random = torch.Generator().manual_seed(0)
    labels = torch.arange(n) % n_classes
    centres = torch.randn(n_classes, width, generator=random)
    return FeatureExamples(centres[labels] + 5 * torch.randn(n, width, generator=random), labels)


def train_alone(
    train: FeatureExamples, held_out: FeatureExamples, head: Head, trial: Trial
) -> Curve:
    """One trial by itself, with PyTorch's own layers, optimizer and loader."""
    norm, linear = (
        nn.BatchNorm1d(head.weight.shape[1], affine=False),
        nn.Linear(*reversed(head.weight.shape)),
    )
    linear.load_state_dict({"weight": head.weight, "bias": head.bias})
    optimizer = torch.optim.SGD(
        linear.parameters(), trial.learning_rate, momentum=MOMENTUM, weight_decay=trial.weight_decay
    )
    loader = DataLoader(
        TensorDataset(train.features, train.labels),
        batch_size=BATCH_SIZE,
        shuffle=True,
        generator=torch.Generator().manual_seed(SEED),
    )
    curve = Curve(trial)
    for _ in range(SWEEP_EPOCHS):
        norm.train()
        for features, labels in loader:
            optimizer.zero_grad()
            nn.functional.cross_entropy(linear(norm(features)), labels).backward()
            optimizer.step()
        norm.eval()
        with torch.no_grad():
            logits = linear(norm(held_out.features))
            record(curve, logits, held_out.labels, "accuracy", keep_probabilities=False)
        if curve.failure:
            break
    return curve


def forward_seconds(images: int, batch_size: int = 16) -> float:
    """Seconds an image of a forward pass of a ViT-B/32 image tower, after one batch to warm up."""
    tower = create_model("ViT-B-32", pretrained=None).visual.eval()
    pixels = torch.randn(batch_size, 3, 224, 224)
    with torch.inference_mode():
        tower(pixels)
        started = time.perf_counter()
        for _ in range(images // batch_size):
            tower(pixels)
    return (time.perf_counter() - started) / (images // batch_size * batch_size)


def timed_search(
    train: FeatureExamples, held_out: FeatureExamples, head: Head, *, at_once: bool
) -> tuple[SweepResult, float]:
    """A whole search and its seconds."""

    def run_round(trials: Sequence[Trial]) -> list[Curve]:
        if at_once:
            return Trainer(head, "accuracy")(train, held_out, trials, epochs=SWEEP_EPOCHS)
        return [train_alone(train, held_out, head, trial) for trial in trials]

    started = time.perf_counter()
    found = sweep(run_round)
    return found, time.perf_counter() - started


def main() -> None:
    """Measure both ways in one run, check that they agree, and print seconds and ratios."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument(
        "--quick", action="store_true", help="1,000 examples in 20 classes, fewer forward passes"
    )
    quick = arguments.parse_args().quick
    n, width, n_classes = (1000, 512, 20) if quick else (5000, 512, 100)
    examples = clusters(n, width, n_classes)
    split = split_training(examples.labels.numpy(), n_classes=n_classes)
    train, held_out = examples.subset(split.search), examples.subset(split.held_out)
    head = Head.from_text(torch.randn(width, n_classes) / width**0.5)
    print(
        f"{n} x {width} features, {n_classes} classes, {torch.get_num_threads()} threads, torch "
        f"{torch.__version__}"
    )

    ours, ours_seconds = timed_search(train, held_out, head, at_once=True)
    alone, alone_seconds = timed_search(train, held_out, head, at_once=False)
    trials = len(ours.curves)
    print(
        f"at once:            {ours_seconds:8.1f} s  {trials} trials, "
        f"{ours.failures.get(NOT_FINITE, 0)} overflowed"
    )
    print(
        f"one after another:  {alone_seconds:8.1f} s  {len(alone.curves)} trials, the same features"
    )
    print(f"  ratio {alone_seconds / ours_seconds:.1f}, measured on both sides")

    others = {curve.trial: curve for curve in alone.curves}
    pairs = [(curve, others[curve.trial]) for curve in ours.curves if curve.trial in others]
    gaps = [abs(curve.best - other.best) for curve, other in pairs]
    print(
        f"  agreement: {len(pairs)} trials in both, scores differ by {max(gaps):.4f} at most; "
        "same winner:",
        end=" ",
    )
    print(
        f"{ours.best == alone.best} (lr {ours.best.learning_rate:g}, weight decay "
        f"{ours.best.weight_decay:.3g})"
    )
    assert max(gaps) <= 2 / len(held_out.labels), "more than two held-out images apart"

    seconds = forward_seconds(32 if quick else 128)
    once = seconds * n
    print(
        f"forward pass: {1000 * seconds:.1f} ms an image (measured), so {once:.0f} s for the {n} "
        "images (composed)"
    )
    for passes, how in ((1, "each trial"), (SWEEP_EPOCHS, "each epoch of each trial")):
        naive = alone_seconds + trials * passes * once
        ratio = naive / (ours_seconds + once)
        print(
            f"naive, encoding in {how}: {naive:.0f} s against {ours_seconds + once:.0f} s, ratio "
            f"{ratio:.0f} (composed)"
        )


if __name__ == "__main__":
    main()
