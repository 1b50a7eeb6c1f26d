"""Gradients of all processes, summed while the backward pass still runs.

DistributedDataParallel does this for modules that are called once a step. Here features are plain functions of some of
a model's weights, and a part of a batch goes forward twice (`training.step`), which its bookkeeping does not know.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from react_pipeline.training.distributed import World

BUCKET_BYTES = 25 << 20
"""Of one message: large enough that its fixed cost is small, small enough that several are on their way in a step."""


class GradientSum:
    """The sum over all processes, in buckets that are sent as soon as their gradients are there.

    The first step shows in which order gradients come, and how often; it sends everything at its end. All processes go
    by the order of the first one, because messages must be sent in the same order by all.
    """

    def __init__(self, world: World, summed: Sequence[nn.Parameter], averaged: Sequence[nn.Parameter] = ()) -> None:
        """Watch parameters; alone in its world, a process has nothing to do.

        Args:
            averaged: Of these every process has the whole gradient. The mean makes it equal to the last bit, so that
                they stay equal in all processes.
        """
        self._world = world
        self._parameters = [*summed, *averaged] if world.size > 1 else []
        self._averaged = frozenset(range(len(summed), len(self._parameters)))
        self._came: list[int] = []
        self._buckets: list[list[int]] = []
        self._bucket_of: dict[int, int] = {}
        self._times: Counter[int] = Counter()
        self._left: list[int] = []
        self._sent: list[tuple[list[int], Tensor, Any]] = []
        for number, parameter in enumerate(self._parameters):
            parameter.register_post_accumulate_grad_hook(lambda _, number=number: self._add(number))

    def finish(self) -> None:
        """Send what is left, and wait: afterwards every gradient is its sum over all processes."""
        if not self._parameters:
            return
        if not self._buckets:
            self._plan()
        while len(self._sent) < len(self._buckets):
            self._send()
        for bucket, flat, work in self._sent:
            work.wait()
            gradients = [self._gradient(number) for number in bucket]
            parts = flat.split([gradient.numel() for gradient in gradients])
            for gradient, part in zip(gradients, parts, strict=True):
                gradient.copy_(part.view_as(gradient))
        self._begin()

    def _add(self, number: int) -> None:
        if not self._buckets:
            self._came.append(number)
            return
        bucket = self._bucket_of[number]
        self._left[bucket] -= 1
        if self._left[bucket] < 0:
            raise RuntimeError("a gradient came more often than in the first step, after its sum was sent")
        while len(self._sent) < len(self._buckets) and not self._left[len(self._sent)]:
            self._send()

    def _plan(self) -> None:
        came = self._world.broadcast(self._came)
        if sorted(came) != sorted(self._came):
            raise RuntimeError("the processes have gradients of different parameters")
        self._times = Counter(came)
        size_bytes = 0
        for number in reversed(dict.fromkeys(reversed(came))):  # by the last time that each came
            parameter = self._parameters[number]
            if not self._buckets or size_bytes + parameter.nbytes > BUCKET_BYTES:
                self._buckets.append([])
                size_bytes = 0
            size_bytes += parameter.nbytes
            self._buckets[-1].append(number)
            self._bucket_of[number] = len(self._buckets) - 1

    def _begin(self) -> None:
        self._sent = []
        self._left = [sum(self._times[number] for number in bucket) for bucket in self._buckets]

    def _send(self) -> None:
        bucket = self._buckets[len(self._sent)]
        gradients = []
        for number in bucket:
            gradient = self._gradient(number).reshape(-1)
            gradients.append(gradient / self._world.size if number in self._averaged else gradient)
        flat = torch.cat(gradients)
        self._sent.append((bucket, flat, dist.all_reduce(flat, async_op=True)))

    def _gradient(self, number: int) -> Tensor:
        gradient = self._parameters[number].grad
        assert gradient is not None  # noqa: S101 - it came
        return gradient
