"""Low-rank blocks: two thin matrices whose product is added to a weight of attention, and merged
into it when a training ends (LoRA, arXiv 2106.09685; on CLIP, arXiv 2405.18541).

Does not belong here: which towers get them (`lora`). Shapes: P projections
packed in one weight, R rank, I and O numbers that a projection takes and gives.
"""

from collections.abc import Iterable, Iterator

from torch import Tensor, nn
from torch.nn.utils import parametrize

from react_pipeline.clip import vision_blocks
from react_pipeline.store import InputError

_SEPARATE = (("query", "key", "value"), ("q_proj", "k_proj", "v_proj"), ("q", "k", "v"))
"""Names of the projections where each is a layer of its own, as in towers of transformers."""

Weight = tuple[nn.Module, str, int]
"""A module, the name of its weight, and how many projections that packs."""


class LowRank(nn.Module):
    """`W + B A / R`, for each projection that `W` packs. `B` starts at zero, so `W` is unchanged at
    first.

    CLIP-LoRA's scale is alpha / R with alpha = 1.
    """

    def __init__(self, weight: Tensor, projections: int, rank: int) -> None:
        """Make `down`, A (P, R, I), and `up`, B (P, O, R), for a weight (P x O, I)."""
        super().__init__()
        width = weight.shape[1]
        # As nn.Linear initializes its weight.
        down = weight.new_empty(projections, rank, width).uniform_(-(width**-0.5), width**-0.5)
        self.down = nn.Parameter(down)
        self.up = nn.Parameter(weight.new_zeros(projections, len(weight) // projections, rank))

    def forward(self, weight: Tensor) -> Tensor:
        """Map the base's weight (P x O, I) to the one in use."""
        return weight + (self.up @ self.down).flatten(0, 1) / self.down.shape[1]


def image_attention(model: nn.Module) -> list[Weight]:
    """The weights of queries, keys and values of the image tower's blocks.

    Raises:
        InputError: If it has no such blocks (a ResNet, say).
    """
    weights = [weight for block in vision_blocks(model) for weight in _attention(block.modules())]
    return _required(weights, "image tower", type(model.visual).__name__)


def text_attention(model: nn.Module) -> list[Weight]:
    """The weights of queries, keys and values of the text tower; errors as `image_attention`."""
    modules = (
        module
        for name, module in model.named_modules()
        if name and not f"{name}.".startswith("visual.")
    )
    return _required(list(_attention(modules)), "text tower", type(model).__name__)


def _required(weights: list[Weight], tower: str, name: str) -> list[Weight]:
    if not weights:
        raise InputError(
            f"{name}: low-rank blocks need attention, and the {tower} has none that is known; "
            "choose another method"
        )
    return weights


def _attention(modules: Iterable[nn.Module]) -> Iterator[Weight]:
    for module in modules:
        if isinstance(getattr(module, "in_proj_weight", None), nn.Parameter):
            yield module, "in_proj_weight", 3
        elif isinstance(packed := getattr(module, "qkv", None), nn.Linear):
            yield packed, "weight", 3
        for names in _SEPARATE:
            layers = [getattr(module, name, None) for name in names]
            if all(isinstance(layer, nn.Linear) for layer in layers):
                yield from ((layer, "weight", 1) for layer in layers if layer is not None)


def add_low_rank(weights: Iterable[Weight], rank: int) -> None:
    """Add a block to each of these weights, in place; features change once it is trained."""
    for module, name, projections in weights:
        block = LowRank(getattr(module, name), projections, rank)
        parametrize.register_parametrization(module, name, block)


def merge_low_rank(model: nn.Module) -> None:
    """Make each sum one weight again, in place: the model then has the architecture of the base."""
    for module in list(model.modules()):
        parametrizations = getattr(module, "parametrizations", {})
        for name, chain in list(parametrizations.items()):
            if any(isinstance(block, LowRank) for block in chain):
                parametrize.remove_parametrizations(module, name, leave_parametrized=True)
