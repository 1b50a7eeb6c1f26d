"""Towers without gradients on a CPU: compiled with fused layers where that gives the same features.

PyTorch runs a convolutional network, or a small tower of the transformers library, layer by layer
with much work around each; onnxruntime (fp32) and oneDNN's graph compiler (bf16) fuse layers and
keep weights laid out for the processor.
"""

import io
import logging
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

logger = logging.getLogger(__name__)

TOLERANCE = {"fp32": 1e-9, "bf16": 1e-3}
"""How much farther from torch in fp32, as 1 - cosine, features may be than twice what torch is in
this precision. In fp32 that is a difference of 5e-5 between unit vectors; measured on the demo's
image tower: 1e-6."""

IMAGES_AT_ONCE = 16
"""Images of one pass: what passes between two layers stays in the cache. A shorter part is filled
up with zeros, as each new shape is compiled again. Measured: 8 to 10% faster than 32."""
OPSET = 17

Features = Callable[[Tensor], Tensor]
"""Maps a batch to features (B, D) or tokens (B, T, W)."""


def convert(
    tower: Features,
    model: nn.Module,
    probes: Sequence[Tensor],
    precision: str,
    *,
    texts: bool = False,
) -> Features:
    """Return the tower with fused layers; as it is where it cannot be converted, or gives other
    features then.

    Args:
        tower: Maps a batch on the CPU to features (B, D) or tokens (B, T, W).
        model: Holds the tower's weights; in eval mode.
        probes: Batches of different shapes, on which both ways are compared. The first is traced.
        precision: `fp32` or `bf16`. Called outside autocast, the tower gives its features in fp32
            either way.
        texts: Whether batches are token ids (N, L) of any L; else they are images, run
            `IMAGES_AT_ONCE` at a time.
    """
    traced = _Traced(tower, model).eval()  # the exporter restores the mode of the whole
    try:
        bf16 = precision == "bf16"
        run = (
            _with_onednn(traced, probes[0]) if bf16 else _with_onnxruntime(traced, probes[0], texts)
        )
        if not texts:
            # onnxruntime: a part a thread. Measured: 1.2 times as fast as all threads on each part.
            run = _in_parts(run, 1 if bf16 else torch.get_num_threads())
        with torch.inference_mode():
            loss, least = (
                torch.stack([_losses(run, tower, probe, precision) for probe in probes])
                .amax(dim=0)
                .tolist()
            )
    except Exception as error:
        logger.info("this tower is run by torch: its layers cannot be fused (%s)", error)
        return tower
    if not loss <= TOLERANCE[precision] + 2 * least:
        logger.info(
            "this tower is run by torch: with fused layers its vectors have a cosine of %g",
            1 - loss,
        )
        return tower
    return run


def _with_onnxruntime(traced: nn.Module, batch: Tensor, texts: bool) -> Features:
    import onnxruntime  # type: ignore[import-untyped]  # not in the light installation

    file = io.BytesIO()
    write_graph(traced, batch, file, ["features"], (0, 1) if texts else (0,))
    options = onnxruntime.SessionOptions()
    # Images pass in parts, side by side (`_in_parts`).
    options.intra_op_num_threads = torch.get_num_threads() if texts else 1
    session = onnxruntime.InferenceSession(
        file.getvalue(), options, providers=["CPUExecutionProvider"]
    )
    return lambda batch: torch.from_numpy(
        session.run(None, {"batch": batch.contiguous().numpy()})[0]
    )


def write_graph(
    module: nn.Module,
    batch: Tensor,
    target: io.BytesIO | str,
    outputs: Sequence[str],
    free: Sequence[int],
) -> None:
    """Write a module of one input, `batch`, as ONNX.

    Args:
        module: Gives `outputs`, each with the rows of the batch.
        batch: Is traced.
        target: A buffer, or a path, next to which weights of more than 2 GiB are written.
        free: Dimensions in which batches may differ.
    """
    axes: dict[str, dict[int, str]] = {name: {0: "axis0"} for name in outputs}
    fused = (
        torch.backends.mha.get_fastpath_enabled()
    )  # one operator for a whole block, which ONNX does not have
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        # The exporter and the traced code warn of shapes, which whoever calls this compares with
        # torch's.
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


def _with_onednn(traced: nn.Module, batch: Tensor) -> Features:
    torch.jit.enable_onednn_fusion(True)  # holds for TorchScript alone
    autocast = torch.autocast("cpu", torch.bfloat16, cache_enabled=False)
    with warnings.catch_warnings(), torch.inference_mode(False), torch.no_grad(), autocast:
        warnings.simplefilter("ignore")  # of shapes, which the comparison checks
        graph = torch.jit.freeze(torch.jit.trace(traced, _filled(batch.clone()), check_trace=False))

    def run(batch: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):  # the casts are in the graph
            return graph(_filled(batch))[: len(batch)].float()

    return run


def _filled(batch: Tensor) -> Tensor:
    missing = IMAGES_AT_ONCE - len(batch)
    whole = (
        torch.cat([batch, batch.new_zeros(missing, *batch.shape[1:])])
        if missing > 0
        else batch[:IMAGES_AT_ONCE]
    )
    return whole.contiguous(memory_format=torch.channels_last) if whole.ndim == 4 else whole


def _in_parts(run: Features, threads: int) -> Features:
    if threads == 1:
        return lambda batch: torch.cat([run(part) for part in batch.split(IMAGES_AT_ONCE)])
    pool = ThreadPoolExecutor(threads)
    return lambda batch: torch.cat(list(pool.map(run, batch.split(IMAGES_AT_ONCE))))


def _losses(run: Features, tower: Features, batch: Tensor, precision: str) -> Tensor:
    """Return the largest 1 - cosine with torch in fp32: of the fused layers, and of torch in this
    precision.
    """
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        features = [run(batch), tower(batch)]
    with torch.autocast("cpu", enabled=False):
        exact = tower(batch).double()
    return torch.stack(
        [
            (1 - functional.cosine_similarity(each.double(), exact, dim=-1)).max()
            for each in features
        ]
    )


class _Traced(nn.Module):
    def __init__(self, tower: Features, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self._tower = tower

    def forward(self, batch: Tensor) -> Tensor:
        return self._tower(batch)
