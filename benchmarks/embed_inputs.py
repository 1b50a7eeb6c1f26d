"""What `benchmarks.embed` encodes: shards of drawn photos with captions of usual lengths, models
with random weights.

No time is taken here. Shapes: H x W pixels.
"""

from __future__ import annotations

import io
import random
import tarfile
from pathlib import Path

import numpy as np
import open_clip
import torch
import yaml
from PIL import Image

ARCHITECTURE = "ViT-B-32"
PIXELS = 256
TEXT = (
    "a the of and in on with for to by from at old new red blue white black green small large "
    "vintage modern photo image picture view house garden street city beach mountain river lake "
    "forest sunset winter summer man woman child dog cat horse bird car train bicycle table chair "
    "kitchen bedroom wedding dress shirt shoes ring watch phone camera book cover poster print "
    "wall art canvas design logo template vector illustration background free sale price best top "
    "how guide recipe chicken cake coffee wine company service hotel room near downtown "
    "international university football player season episode official trailer watercolor handmade "
    "leather stainless steel wireless bluetooth portable waterproof"
)
REPEATED_FRACTION = 0.03
"""Of the captions that repeat an earlier one, as product names and placeholders do on the web."""


def draw_captions(count: int, seed: int = 0) -> list[str]:
    """Captions of ordinary words; the number of words is log-normal with median 9, from 2 to 50."""
    chance = random.Random(seed)  # noqa: S311 - captions, not secrets
    captions: list[str] = []
    words = TEXT.split()
    for _ in range(count):
        if captions and chance.random() < REPEATED_FRACTION:
            captions.append(chance.choice(captions))
        else:
            count_words = min(50, max(2, round(chance.lognormvariate(np.log(9), 0.55))))
            captions.append(" ".join(chance.choices(words, k=count_words)))
    return captions


def draw_jpeg(seed: int) -> bytes:
    """A JPEG of `PIXELS` with coloured areas and some grain, of about 15 KiB."""
    chance = np.random.default_rng(seed)
    coarse = Image.fromarray(chance.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((PIXELS, PIXELS), Image.Resampling.BICUBIC), dtype=np.int16)
    grain = chance.normal(0, 6, smooth.shape).astype(np.int16)
    buffer = io.BytesIO()
    Image.fromarray((smooth + grain).clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=88)
    return buffer.getvalue()


def write_shards(directory: Path, shards: int, pairs: int, images: int | None = None) -> str:
    """Shards `00000.tar` and so on of `pairs` pairs each; returns their pattern in braces.

    With `images`, so many different ones are drawn and used in turns; keys and captions differ all
    the same.
    """
    directory.mkdir(parents=True, exist_ok=True)
    captions = draw_captions(shards * pairs)
    drawn = [draw_jpeg(seed) for seed in range(images or shards * pairs)]
    for shard in range(shards):
        with tarfile.open(directory / f"{shard:05d}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            for number in range(shard * pairs, (shard + 1) * pairs):
                for extension, data in (
                    ("jpg", drawn[number % len(drawn)]),
                    ("txt", captions[number].encode()),
                ):
                    info = tarfile.TarInfo(f"{number:09d}.{extension}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
    return f"{directory}/{{00000..{shards - 1:05d}}}.tar"


def write_checkpoint(path: Path) -> None:
    """Weights of `ARCHITECTURE` drawn at random, as open_clip and clip-retrieval load them."""
    torch.manual_seed(0)
    torch.save(open_clip.create_model(ARCHITECTURE, pretrained=None).state_dict(), path)


def write_project(
    directory: Path, checkpoint: Path, embedding: dict[str, object], device: str = "cpu"
) -> Path:
    """A `pipeline.yaml` in `directory`, with its store and its shards beside it."""
    (directory / "domains").mkdir(parents=True, exist_ok=True)
    # What open_clip, and so clip-retrieval, takes where a checkpoint does not say.
    encoder = {"model": ARCHITECTURE, "pretrained": str(checkpoint), "quick_gelu": False}
    encoder |= {"mean": list(open_clip.OPENAI_DATASET_MEAN)}
    encoder |= {"std": list(open_clip.OPENAI_DATASET_STD)}
    pipeline = {
        "project": "embedding",
        "store": "store",
        "device": device,
        "corpus": {"kind": "webdataset", "shards": [f"{directory}/shards/*.tar"]},
        "encoder": encoder,
        "embedding": embedding,
    }
    path = directory / f"pipeline-{embedding.get('precision', 'fp32')}.yaml"
    path.write_text(yaml.safe_dump(pipeline), encoding="utf-8")
    return path
