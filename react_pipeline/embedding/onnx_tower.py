"""Towers without gradients on a CPU: converted for onnxruntime where that gives the same features.

PyTorch runs a convolutional network, or a small tower of the transformers library, layer by layer with much work around
each; onnxruntime fuses layers and keeps weights laid out for the processor. Belongs here: the conversion and its check.
Does not belong here: which towers are converted (`encoder`).
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as functional
from torch import Tensor, nn

logger = logging.getLogger(__name__)

MAX_DIFFERENCE = 1e-5
"""Between unit vectors of both ways. Measured on the demo's towers: below 1e-6."""

OPSET = 17


def convert(
    tower: Callable[[Tensor], Tensor], model: nn.Module, probes: Sequence[Tensor], free: Sequence[int]
) -> Callable[[Tensor], Tensor] | None:
    """The tower as onnxruntime runs it, float32; None where it cannot be converted or gives other features.

    Args:
        tower: Maps a batch on the CPU to features (B, D).
        model: Holds the tower's weights; in eval mode.
        probes: Batches of different shapes. The first is traced, and both ways are compared on all.
        free: Dimensions in which batches may differ.
    """
    try:
        import onnxruntime  # type: ignore[import-untyped]  # not in the light installation

        file = io.BytesIO()
        write_graph(_Traced(tower, model), probes[0], file, ["features"], free)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(file.getvalue(), options, providers=["CPUExecutionProvider"])

        def run(batch: Tensor) -> Tensor:
            return torch.from_numpy(session.run(None, {"batch": batch.contiguous().numpy()})[0])

        with torch.inference_mode():
            difference = max(_difference(run(probe), tower(probe)) for probe in probes)
    except Exception as error:  # noqa: BLE001 - whatever a converter of any architecture raises, torch still runs it
        logger.info("this tower is run by torch: onnxruntime cannot run it (%s)", error)
        return None
    if not difference <= MAX_DIFFERENCE:
        logger.info("this tower is run by torch: converted for onnxruntime its vectors differ by %g", difference)
        return None
    return run


def write_graph(
    module: nn.Module, batch: Tensor, target: io.BytesIO | str, outputs: Sequence[str], free: Sequence[int]
) -> None:
    """Write a module of one input, `batch`, as ONNX.

    Args:
        module: Gives `outputs`, each with the rows of the batch.
        batch: Is traced.
        target: A buffer, or a path, beside which weights of more than 2 GiB are written.
        outputs: Their names.
        free: Dimensions in which batches may differ.
    """
    axes: dict[str, dict[int, str]] = {name: {0: "axis0"} for name in outputs}
    fused = torch.backends.mha.get_fastpath_enabled()  # one operator for a whole block, which ONNX does not have
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        # The exporter and the traced code warn of shapes, which whoever calls this compares with torch's.
        with warnings.catch_warnings(), torch.inference_mode(False), torch.no_grad():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                module.eval(),  # the exporter restores the mode of the whole
                (batch.clone(memory_format=torch.contiguous_format),),
                target,  # type: ignore[arg-type] # the stub names paths alone
                dynamo=False,
                input_names=["batch"],
                output_names=list(outputs),
                dynamic_axes={"batch": {axis: f"axis{axis}" for axis in free}, **axes},
                opset_version=OPSET,
            )
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)


def _difference(features: Tensor, expected: Tensor) -> float:
    ours, exact = (functional.normalize(found.float(), dim=-1).numpy() for found in (features, expected))
    return float(np.abs(ours - exact).max())


class _Traced(nn.Module):
    def __init__(self, tower: Callable[[Tensor], Tensor], model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self._tower = tower

    def forward(self, batch: Tensor) -> Tensor:
        return self._tower(batch)
