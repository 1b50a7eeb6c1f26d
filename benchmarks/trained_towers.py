"""Towers that train as a whole: what is not computed for them, beside the model's own forward and
backward pass.

Run `.venv/bin/python -m benchmarks.trained_towers` from the repository's root. Two parts, each
against the plain way in the same run, in turns, with random weights:

- the text tower of CLIP ViT-B/32 on captions of like length to those of the web, of which some
  repeat, as `TrainingTexts` encodes them against `model.encode_text`;
- EfficientNet-Lite0 in bf16 on a CPU, as `ImageTower` runs it against autocast alone.

Seconds are of the processor, so other work on the machine disturbs them less than it does a clock;
the best of the rounds counts.
"""

from __future__ import annotations

import argparse
import copy
import random
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import open_clip
import pandas as pd
import timm
import torch
from torch import Tensor, nn

from react_pipeline.clip import ImageTower
from react_pipeline.settings import TrainingConfig
from react_pipeline.training.texts import TrainingTexts

CAPTION_TOKENS = (4, 34)
"""Shortest and longest caption, both ends counted; most have fewer than 20 (drawn from a triangle
that leans there).
"""


def caption_tokens(texts: int, repeated: float, seed: int = 0) -> Tensor:
    """Token ids (N, 77) of captions of random words, the share `repeated` of which repeat
    another.
    """
    rng, rows = random.Random(seed), torch.zeros(texts, 77, dtype=torch.long)  # noqa: S311 - no secret
    for row in rows:
        length = round(rng.triangular(*CAPTION_TOKENS, 9))
        row[:length] = torch.tensor(
            [49_406, *(rng.randrange(300, 40_000) for _ in range(length - 2)), 49_407]
        )
    for number in range(int(repeated * texts)):
        rows[number] = rows[texts - 1 - number]
    return rows


def text_ways(tokens: Tensor) -> dict[str, Callable[[], Tensor]]:
    """Vectors (N, D) of the captions, in both ways, by one model."""
    torch.manual_seed(0)
    model = open_clip.create_model("ViT-B-32").eval()
    model.visual = nn.Identity()
    different, place = torch.unique(tokens, dim=0, return_inverse=True)
    table: Any = TrainingTexts.__new__(TrainingTexts)
    table._clip, table._device = SimpleNamespace(model=model), "cpu"
    table._trains, table._rows, table._training = True, different, TrainingConfig()
    return {
        "text tower of ViT-B/32: the model's own pass": lambda: model.encode_text(
            tokens, normalize=True
        ),
        "text tower of ViT-B/32: equal texts once, no column behind the longest": lambda: (
            table.vectors(place)
        ),
    }


def image_ways(images: Tensor) -> dict[str, Callable[[], Tensor]]:
    """Features of the images, in both ways, by two copies of one network."""
    torch.manual_seed(0)
    plain = _Features()
    ours = copy.deepcopy(plain)
    tower = ImageTower(ours)
    tower.use_bf16("cpu")
    ours.visual.to(memory_format=torch.channels_last)

    def cast(run: Callable[[Tensor], Tensor]) -> Callable[[], Tensor]:
        def features() -> Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                return run(images)

        return features

    return {
        "EfficientNet-Lite0, bf16: autocast alone": cast(plain.visual),
        "EfficientNet-Lite0, bf16: depthwise convolutions in fp32, channels last": cast(tower),
    }


class _Features(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.visual = timm.create_model(
            "tf_efficientnet_lite0", pretrained=False, num_classes=0
        ).eval()


def seconds_of(ways: dict[str, Callable[[], Tensor]], rounds: int) -> dict[str, float]:
    """Processor seconds of a forward and a backward pass, the best of the rounds; the ways take
    their turns.
    """
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(rounds + 1):
        for name, way in ways.items():
            began = time.process_time()
            way().float().sum().backward()
            best[name] = min(best[name], time.process_time() - began)
    return best


def table_of(parts: list[dict[str, float]]) -> pd.DataFrame:
    """A row a way; the ratio is that to the first way of its part."""
    rows = []
    for part in parts:
        first = next(iter(part.values()))
        rows += [
            {"": name, "seconds": f"{value:.2f}", "ratio": f"{first / value:.2f}"}
            for name, value in part.items()
        ]
    return pd.DataFrame(rows)


def main() -> None:
    """Measure both parts and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument(
        "--repeated", type=float, default=0.05, help="share of captions that repeat another"
    )
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    tokens = caption_tokens(given.batch, given.repeated)
    images = torch.randn(given.batch, 3, given.image_size, given.image_size)
    table = table_of(
        [seconds_of(ways, given.rounds) for ways in (text_ways(tokens), image_ways(images))]
    )
    longest = int(tokens.argmax(dim=1).max()) + 1
    setting = (
        f"Batch {given.batch}, longest caption {longest} of 77 token ids, images of "
        f"{given.image_size} pixels"
    )
    text = f"{setting}, {torch.get_num_threads()} threads, torch {torch.__version__}.\n\n"
    text += table.to_markdown(index=False, disable_numparse=True)
    print(text)


if __name__ == "__main__":
    main()
