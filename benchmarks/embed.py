"""Pairs a second of the embedding: ours, `clip-retrieval inference` and the bare forward pass, on
the same shards.

Run `.venv/bin/python -m benchmarks.embed` from the repository's root: `--quick` only to see that it
works, `--page benchmarks/results.md` to write the tables into that page. All three use the same
weights of a ViT-B/32, drawn at random, the same pairs, the same batch size and the same threads,
and take their turns, so that what else the machine does hits all of them alike.

clip-retrieval runs as its sequential distributor runs it, with its own reader, mapper and writer;
the model is put into eval mode before, which it does not do itself. Seconds are of reading,
encoding and writing batches, the start of the decoding processes included: those its `Runner`
counts, and for ours, which reads ahead, those from one group of shards to the
next. Loading and its warm-up are left out, and so are the processes that its logger starts, which
would weigh on a run as short as this. The bare pass encodes tensors that are ready in memory.

What is encoded is made by `benchmarks.embed_inputs`, the three ways are in `benchmarks.embed_runs`.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch

from benchmarks import embed_inputs
from benchmarks.embed_runs import Batch, Ours, Theirs, Vectors, bare
from benchmarks.pages import Rows, make_parser, parse_sizes, show_section, to_markdown
from react_pipeline.embedding import FOLDERS

BEGIN, END = "<!-- embed:begin -->", "<!-- embed:end -->"
THEIRS, BARE, BARE_BF16 = (
    "clip-retrieval fp32",
    "bare forward pass fp32",
    "bare forward pass bf16 (autocast)",
)
OURS = {"ours fp32": "fp32", "ours bf16": "bf16"}


def in_turns(takes: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each in every round."""
    seconds: dict[str, list[float]] = {name: [] for name in takes}
    for number in range(rounds):
        for name, take in takes.items():
            seconds[name].append(take())
            print(f"round {number + 1}, {name}: {seconds[name][-1]:.1f} s", flush=True)
    return seconds


def speed_rows(
    seconds: Mapping[str, list[float]], pairs: int, vectors: Mapping[str, Vectors]
) -> Rows:
    """Pairs a second and ratios of medians, and the smallest cosine to clip-retrieval's vectors."""
    medians = {name: statistics.median(taken) for name, taken in seconds.items()}
    rows: Rows = {}
    for name, median in medians.items():
        rows[name] = {
            "pairs/s": pairs / median,
            "over clip-retrieval": medians[THEIRS] / median,
            "over the bare pass": medians[BARE] / median,
        }
        for side in FOLDERS if name in vectors else ():
            cosine = (vectors[name][side] * vectors[THEIRS][side]).sum(1).min()
            rows[name][f"smallest cosine, {side}"] = f"{cosine:.7f}"
    return rows


def describe(batches: list[Batch], vectors: Vectors, given: argparse.Namespace) -> str:
    """The setting in words."""
    lengths = torch.cat([batch.tokens.argmax(dim=1) + 1 for batch in batches])
    pairs = len(lengths)
    texts = len(torch.cat([batch.tokens for batch in batches]).unique(dim=0))
    images = vectors["image"]
    alike = (np.linalg.norm(images.sum(0)) ** 2 - pairs) / (pairs * (pairs - 1))
    short = float((lengths < 20).float().mean())
    return (
        f"{embed_inputs.ARCHITECTURE} with random weights, {pairs} pairs in {given.shards} shards "
        f"(JPEG of {embed_inputs.PIXELS} pixels; captions of {int(lengths.min())} to "
        f"{int(lengths.max())} token ids, median {int(lengths.median())}, {short:.0%} under 20; "
        f"{pairs - texts} captions repeat another), batch {given.batch}, {given.workers} decoding "
        f"workers, {given.threads} threads, {given.device}, torch {torch.__version__}; medians of "
        f"{given.rounds} rounds. Image vectors of different pairs have a mean cosine of "
        f"{alike:.2f}."
    )


def main() -> None:
    """Measure speed, and print it."""
    parser = make_parser(__doc__)
    parser.add_argument("--shards", type=int, default=2)
    parser.add_argument("--workers", type=int, default=2, help="decoding processes of either")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parse_sizes(parser, batch=(64, 8), rounds=(3, 1))
    given.device = "cpu"  # cards: benchmarks.gpu
    torch.set_num_threads(given.threads)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        pattern = embed_inputs.write_shards(root / "shards", given.shards, given.batch)
        checkpoint = root / "weights.pt"
        embed_inputs.write_checkpoint(checkpoint)
        embedding = {"batch_size": given.batch, "workers": given.workers}
        ours = {}
        for name, precision in OURS.items():
            fields = {**embedding, "precision": precision}
            ours[name] = Ours(embed_inputs.write_project(root, checkpoint, fields))
        clip = ours["ours fp32"].clip()
        batches = Batch.read(root / "shards", clip)
        theirs = Theirs(pattern, checkpoint, root / "theirs", given)
        takes: dict[str, Callable[[], float]] = {
            THEIRS: theirs,
            BARE: bare(clip, batches, bf16=False),
        }
        takes |= {BARE_BF16: bare(clip, batches, bf16=True), **ours}
        seconds = in_turns(takes, given.rounds)
        vectors = {THEIRS: theirs.vectors(), **{name: one.vectors() for name, one in ours.items()}}
        speed = speed_rows(seconds, given.shards * given.batch, vectors)
        setting = describe(batches, vectors[THEIRS], given)
    text = f"{setting}\n\nFrom shards to files; ratios of medians:\n\n{to_markdown(speed)}"
    show_section(text, given.page, BEGIN, END)


if __name__ == "__main__":
    main()
