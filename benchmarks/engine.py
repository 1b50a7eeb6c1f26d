"""How soon a training of millions of pairs takes its first step, and in how much memory.

Run `.venv/bin/python -m benchmarks.engine` from the repository's root: 10 million pairs, one
process and two, each from its start (imports included) to the first step, then once more to resume;
`--pairs 100000` to see that it works. The set is published like any other: captions and classes of
the usual lengths, one in six captions occurring again, offsets into tars of 10,000 pairs. All tars
are names of one file that holds a small pool of images, so the images are read from the page cache.
The towers are small, with vectors of 512 numbers, so that what is measured is the engine and not
the model. Text vectors are made beforehand (`warm`), as a resumed training or one on GPUs would
find or make them.

Memory is what a process holds itself (RssAnon), sampled 20 times a second; files that it maps
belong to all.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image, ImageFilter

from react_pipeline.corpus import SHARDS, CollectedPairs
from react_pipeline.corpus.collected import write_table
from react_pipeline.pages import markdown_table
from react_pipeline.settings import DomainConfig, TrainingConfig
from react_pipeline.store import Artifact, Inputs, Scratch, Store
from react_pipeline.training import GatedImage

POOL, SHARD_PAIRS, CLASSES, DIMENSION = 64, 10_000, 1_000, 512
WORDS = "red old small photo image vintage wooden garden house street bird water light stock vector set".split()  # noqa: SIM905
INPUTS = Inputs("retrieved_set", "things", {}, {}, "1")
DOMAIN = DomainConfig(
    slug="things",
    classes=tuple(f"thing {number}" for number in range(CLASSES)),
    templates=("a {}",),
)
TRAINING = TrainingConfig(steps=2, batch_size=256, checkpoint_every=1, workers=1, precision="fp32")


def encoded_images() -> Iterator[bytes]:
    """JPEGs of 384 pixels, about as large as those of img2dataset at that size."""
    chance = np.random.default_rng(0)
    for _ in range(POOL):
        noise = Image.fromarray(chance.integers(0, 255, (384, 384, 3), np.uint8)).filter(
            ImageFilter.GaussianBlur(1.5)
        )
        file = io.BytesIO()
        noise.save(file, format="JPEG", quality=90)
        yield file.getvalue()


def captions_of(pairs: int) -> pa.Array:
    """Captions of about 60 letters, of which every sixth is one that was there before."""
    chance = np.random.default_rng(0)
    words = pa.array(WORDS, pa.large_string())
    drawn = [words.take(pa.array(chance.integers(0, len(WORDS), pairs))) for _ in range(7)]
    number = pa.array(chance.integers(0, 3 * pairs, pairs)).cast(pa.large_string())
    texts = pc.binary_join_element_wise(*drawn, number, pa.scalar(" ", pa.large_string()))
    first = np.arange(pairs)
    again = chance.random(pairs) < 1 / 6
    first[again] = chance.integers(0, pairs, int(again.sum()))
    return texts.take(pa.array(first))


def publish(store: Store, pairs: int, images: Sequence[bytes] = ()) -> Artifact:
    """The set, or the one that is there; of these JPEGs, or of those of `encoded_images`."""
    images = images or list(encoded_images())

    def write(directory: Path, _: object) -> dict[str, int]:
        folder = directory / SHARDS
        folder.mkdir()
        offsets, sizes = [], []
        with (folder / "00000.tar").open("wb") as file, tarfile.open(fileobj=file, mode="w") as tar:
            for number, image in enumerate(images):
                member = tarfile.TarInfo(f"{number:09d}.jpg")
                member.size = len(image)
                offsets.append(file.tell() + tarfile.BLOCKSIZE)
                sizes.append(len(image))
                tar.addfile(member, io.BytesIO(image))
        for number in range(1, -(-pairs // SHARD_PAIRS)):
            os.link(folder / "00000.tar", folder / f"{number:05d}.tar")
        row = np.arange(pairs)
        place = row % SHARD_PAIRS % len(images)
        label = np.random.default_rng(1).integers(0, CLASSES, pairs).astype(np.int32)
        names = pa.array(DOMAIN.class_names, pa.large_string())
        numbers = (row, row // SHARD_PAIRS, np.array(offsets)[place], np.array(sizes)[place])
        columns: dict[str, pa.Array] = dict(
            zip(("row", "shard", "offset", "bytes"), map(pa.array, numbers), strict=True)
        )
        columns["caption"] = captions_of(pairs).dictionary_encode()
        columns["class"] = pa.DictionaryArray.from_arrays(pa.array(label), names)
        write_table(folder, columns)
        return {"pairs": pairs}

    return store.build(INPUTS, write)


def warm(scratch: Scratch, texts: int) -> None:
    """Keep the file of text vectors as an earlier try leaves it."""
    some = np.random.default_rng(2).standard_normal((65_536, DIMENSION)).astype(np.float16)

    def write(path: Path) -> None:
        with path.open("wb") as file:
            for start in range(0, texts, len(some)):
                file.write(some[: texts - start].tobytes())

    scratch.keep(f"texts.vectors-{texts}-{DIMENSION}-float16", write)


class Memory(threading.Thread):
    """The most that this process and its decoding processes have held so far, each by itself."""

    def __init__(self) -> None:
        """Nothing yet."""
        super().__init__(daemon=True)
        self.own = self.worker = 0

    def run(self) -> None:
        """Sample until the process ends."""
        while True:
            children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
            self.own = max(self.own, anonymous_bytes("self"))
            self.worker = max([self.worker, *map(anonymous_bytes, children)])
            time.sleep(0.05)


def anonymous_bytes(process: str) -> int:
    """Memory that a process holds itself, without the files it maps; 0 where it has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon")), 0)


class FirstStep:
    """An observer that notes when the first step is done."""

    def __init__(self) -> None:
        """Nothing yet."""
        self.at: float | None = None

    def started(self, inputs: Inputs, first_step: int) -> None:
        """Ignore it."""

    def stepped(self, record: Mapping[str, float]) -> None:
        """Note the time."""
        self.at = self.at or time.time()

    def failed(self, error: BaseException) -> None:
        """Ignore it."""


def train(root: Path, began: float, steps: int) -> None:
    """What each process does: train, and leave its figures."""
    memory = Memory()
    memory.start()
    from open_clip.model import CLIP

    from react_pipeline.clip.model import from_parts
    from react_pipeline.extensions.torchrun.world import Processes
    from react_pipeline.training import train_model

    world = Processes.join("cpu")
    config: dict[str, Any] = {
        "embed_dim": DIMENSION,
        "vision_cfg": {
            "image_size": 224,
            "layers": 2,
            "width": 64,
            "head_width": 32,
            "patch_size": 32,
        },
        "text_cfg": {
            "context_length": 77,
            "vocab_size": 49408,
            "width": 64,
            "heads": 2,
            "layers": 1,
        },
    }
    prepare = {"mean": (0.48, 0.46, 0.41), "std": (0.27, 0.26, 0.28)}
    clip = from_parts(CLIP(**config), config, prepare, None)
    before = anonymous_bytes("self")
    store, first = Store(root / "store"), FirstStep()
    pairs = CollectedPairs(store.open(INPUTS.stage, INPUTS.key, INPUTS.fingerprint))
    training = TRAINING.model_copy(
        update={"steps": steps, "last_k_layers": 2, "processes": world.size}
    )
    customization: Any = SimpleNamespace(
        pairs=pairs,
        domain=DOMAIN,
        training=training,
        world=world,
        scratch=Scratch(root / "scratch"),
        staging=root if world.is_writer else None,
        observer=first,
        inputs=INPUTS,
    )
    counts = train_model(GatedImage(), customization, clip)
    figures = {
        "seconds": None if first.at is None else first.at - began,
        "first_step": counts["first_step"],
        "model": before,
        "own": memory.own,
        "worker": memory.worker,
    }
    (root / f"rank{world.rank}.json").write_text(json.dumps(figures))


def measure(root: Path, processes: int, steps: int) -> dict[str, Any]:
    """Train in so many processes; figures of all of them."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
    command += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0"]
    command += [
        "-m",
        "benchmarks.engine",
        "--train",
        str(root),
        "--steps",
        str(steps),
        "--began",
        str(time.time()),
    ]
    subprocess.run(command, check=True, cwd=Path(__file__).parents[1])  # noqa: S603 - ourselves
    ranks = [json.loads((root / f"rank{rank}.json").read_text()) for rank in range(processes)]
    return {
        "processes": processes,
        "what": "resumed" if ranks[0]["first_step"] else "started",
        "seconds to the first step": round(ranks[0]["seconds"], 1),
        "MiB with the model": max(rank["model"] for rank in ranks) >> 20,
        "MiB at most": max(rank["own"] for rank in ranks) >> 20,
        "MiB of a decoding process": max(rank["worker"] for rank in ranks) >> 20,
    }


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pairs", type=int, default=10_000_000)
    parser.add_argument(
        "--keep", type=Path, help="folder for the set, used again where it is there"
    )
    parser.add_argument("--train", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--steps", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--began", type=float, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.train:
        train(given.train, given.began, given.steps)
        return
    with tempfile.TemporaryDirectory() as temporary:
        root = given.keep or Path(temporary)
        began = time.monotonic()
        pairs = CollectedPairs(publish(Store(root / "store"), given.pairs))
        print(
            f"{len(pairs):,} pairs, {len(pairs.captions):,} captions: "
            f"{time.monotonic() - began:.0f} s to publish"
        )
        warm(Scratch(root / "scratch"), len(pairs.captions))
        rows = []
        for processes in (1, 2):
            for state in (root / "scratch").glob("step-*"):
                shutil.rmtree(state)
            rows += [
                measure(root, processes, steps) for steps in (TRAINING.steps, 2 * TRAINING.steps)
            ]
        print(markdown_table(list(rows[0]), [list(row.values()) for row in rows]))


if __name__ == "__main__":
    main()
