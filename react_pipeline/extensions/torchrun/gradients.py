"""Gradients of all processes, summed while the backward pass still runs.

DistributedDataParallel does this for modules that are called once a step. Here features are plain
functions of some of a model's weights, and a part of a batch goes forward twice (`training.step`),
which its bookkeeping does not know.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.distributed as dist
from torch import nn

from react_pipeline.training import Gradients


class GradientSum(Gradients):
    """The sum over all processes of each gradient, in place, on its way as soon as the gradient is
    whole.

    All processes go backward through the same graph, so they send in the same order.
    """

    def __init__(
        self, processes: int, summed: Sequence[nn.Parameter], averaged: Sequence[nn.Parameter]
    ) -> None:
        """Watch parameters (`World.sum_gradients`)."""
        self._processes = processes
        self._averaged = frozenset(averaged)
        self._parameters = [*summed, *averaged]
        self._sent: dict[nn.Parameter, Any] = {}
        for parameter in self._parameters:
            parameter.register_post_accumulate_grad_hook(self._came)

    def finish(self) -> None:
        """Send what is left, and wait: afterwards every gradient is its sum over all processes."""
        for parameter in self._parameters:
            if parameter.grad is not None and parameter not in self._sent:
                self._send(parameter)
        for work in self._sent.values():
            work.wait()
        self._sent.clear()
        self.whole = False

    def _came(self, parameter: nn.Parameter) -> None:
        if parameter in self._sent:
            raise RuntimeError("a gradient came again after its sum was sent")
        if self.whole:
            self._send(parameter)

    def _send(self, parameter: nn.Parameter) -> None:
        assert parameter.grad is not None  # noqa: S101 - it came
        if parameter in self._averaged:
            parameter.grad /= self._processes
        self._sent[parameter] = dist.all_reduce(parameter.grad, async_op=True)
