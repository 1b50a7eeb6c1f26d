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


def add_low_rank(model: nn.Module, tower: str, rank: int) -> None:
    """Add a block to the queries, keys and values of every block of a tower, `image` or `text`, in
    place; features change once it is trained.

    Raises:
        InputError: If the tower has no such blocks (a ResNet, say).
    """
    if tower == "image":
        modules = [module for block in vision_blocks(model) for module in block.modules()]
    else:
        named = model.named_modules()
        modules = [module for name, module in named if not f"{name}.".startswith("visual.")]
    weights = list(_attention(modules))
    if not weights:
        raise InputError(
            f"{type(model).__name__}: low-rank blocks need attention, and the {tower} tower has "
            "none that is known; choose another method"
        )
    for module, name, projections in weights:
        block = LowRank(getattr(module, name), projections, rank)
        parametrize.register_parametrization(module, name, block)


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


def merge_low_rank(model: nn.Module) -> None:
    """Make each sum one weight again, in place: the model then has the architecture of the base."""
    for module in list(model.modules()):
        parametrizations = getattr(module, "parametrizations", {})
        for name, chain in list(parametrizations.items()):
            if any(isinstance(block, LowRank) for block in chain):
                parametrize.remove_parametrizations(module, name, leave_parametrized=True)
