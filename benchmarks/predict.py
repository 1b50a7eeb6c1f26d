"""Pictures a second of `predict`, from JPEG files to predictions, against the bare tower on the
same batches.

Run `.venv/bin/python -m benchmarks.predict`, about two minutes on 2 cores (`--checkpoint FOLDER`
for a model on disk). The bare side is open_clip's `encode_image` on batches that are decoded and
preprocessed already, in the precision that `predict` chooses; decoding, class scores, files and the
page are ours alone. The sides take turns, another one first in each round; the ratio is the median
of the rounds. The model has random weights unless a folder is given.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as functional
from PIL import Image

from benchmarks.embed_inputs import draw_jpeg
from react_pipeline.clip import DTYPES, Clip, choose_device, choose_precision, load
from react_pipeline.clip.model import from_parts
from react_pipeline.extensions.predict import Options, predict_pictures
from react_pipeline.use import Classifier, Origin

BATCH = 64


def random_clip(name: str, device: str) -> Clip:
    """An architecture of open_clip with random weights."""
    import open_clip

    torch.manual_seed(0)
    clip = from_parts(
        open_clip.create_model(name).eval(), open_clip.get_model_config(name), {}, None
    )
    clip.model.to(device)
    clip.device = device
    return clip


@torch.inference_mode()
def seconds_of_tower(clip: Clip, batches: list[torch.Tensor], precision: str) -> float:
    """Seconds of the bare tower on all batches."""
    began = time.perf_counter()
    for batch in batches:
        with torch.autocast(clip.device, DTYPES[precision], enabled=precision != "fp32"):
            clip.model.encode_image(batch.to(clip.device), normalize=True).float().cpu()
    return time.perf_counter() - began


def main() -> None:
    """Print both sides and their ratio."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pictures", type=int, default=800)
    parser.add_argument("--pixels", type=int, default=256, help="side of a JPEG")
    parser.add_argument("--model", default="ViT-B-32")
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    device = choose_device("auto")
    clip = (
        load(arguments.checkpoint, device)
        if arguments.checkpoint
        else random_clip(arguments.model, device)
    )
    precision = choose_precision("auto", device)
    head = functional.normalize(torch.randn(clip.dimension, 100), dim=0)
    origin = Origin("none", "random", "0" * 16)
    classifier = Classifier(clip, head, tuple(map(str, range(100))), origin, precision=precision)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "pictures")
        folder.mkdir()
        for number in range(arguments.pictures):
            (folder / f"{number:06d}.jpg").write_bytes(draw_jpeg(number % 200, arguments.pixels))
        images = [
            clip.preprocess(Image.open(path).convert("RGB"))
            for path in sorted(folder.iterdir())[:BATCH]
        ]
        batches = [torch.stack(images)] * -(-arguments.pictures // BATCH)

        def bare() -> float:
            return len(batches) * BATCH / seconds_of_tower(clip, batches, precision)

        def ours() -> float:
            began = time.perf_counter()
            options = Options(workers=arguments.workers)
            predict_pictures(classifier, str(folder), Path(tempfile.mkdtemp(dir=name)), options)
            return arguments.pictures / (time.perf_counter() - began)

        seconds_of_tower(clip, batches[:1], precision)
        print(
            f"{torch.get_num_threads()} threads, {device}, {precision}, {arguments.pictures} "
            f"pictures of {arguments.pixels} px; pictures/s"
        )
        ratios = []
        for number in range(arguments.rounds):
            rates = {
                side.__name__: side()
                for side in ((bare, ours) if number % 2 == 0 else (ours, bare))
            }
            ratios.append(rates["ours"] / rates["bare"])
            print(
                f"bare tower {rates['bare']:8.1f}   predict {rates['ours']:8.1f}   ratio "
                f"{ratios[-1]:.2f}",
                flush=True,
            )
    print(f"median ratio {median(ratios):.2f}")


if __name__ == "__main__":
    main()
