"""What customizing on drawings does to photographs: forgetting, and what interpolation with the
base saves of it.

Run after `make demo`: `make demo-photos`, or `python -m benchmarks.demo_photos --folder STAMPS`.
The photographs are stamps of Tux Paint (Debian package `tuxpaint-stamps-default`, GPL-2, 80 MB),
which `apt-get` downloads and nothing installs. Their classes are the package's own English names;
no label is ours. Without `apt-get` it is skipped.

Belongs here: listing the photographs, models of the demo and of both ends of interpolation. A
photograph is classified among the names of all photographs, and a drawing of a domain's evaluation
set among its classes.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.demo_proof import DOMAINS, METHOD
from benchmarks.pages import make_parser, show_section
from react_pipeline.clip import (
    EVALUATION_PRECISION,
    Clip,
    choose_device,
    gated_layers,
    load_classifier,
    scale_gates,
)
from react_pipeline.labelled import encode_images, read_images
from react_pipeline.lineage import fresh, fresh_or_none
from react_pipeline.pages import markdown_table
from react_pipeline.project import Project
from react_pipeline.stage import ALL, method_key
from react_pipeline.store import Artifact, MissingArtifact

PACKAGE = "tuxpaint-stamps-default"
PHOTOGRAPHED = ("animals", "food", "hobbies", "plants", "sports")
"""Folders of the package whose PNGs are photographs, nearly all, and cut out; `cartoon` below them
is left out.
"""
BEGIN, END = "<!-- photos:begin -->", "<!-- photos:end -->"
WEIGHTS = (0.5, 1.0)
"""Of the customized model in the interpolation with the base."""


def download(folder: Path) -> Path | None:
    """The package's files below `folder`, downloaded once; None where there is no apt-get."""
    if not (unpacked := folder / "unpacked").is_dir():
        if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
            return None
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(["apt-get", "download", PACKAGE], cwd=folder, check=True)  # noqa: S603, S607
        archive = next(folder.glob(f"{PACKAGE}_*.deb"))
        staging = folder / "staging"
        subprocess.run(["dpkg-deb", "-x", archive, staging], check=True)  # noqa: S603, S607
        staging.rename(unpacked)
    return unpacked / "usr/share/tuxpaint/stamps"


def photographs(stamps: Path) -> list[tuple[Path, str]]:
    """Files and English names, without article: [(.../badger.png, "badger"), ...]."""
    listed = []
    for path in sorted(
        path for folder in PHOTOGRAPHED for path in (stamps / folder).rglob("*.png")
    ):
        text = path.with_suffix(".txt")
        if "cartoon" in path.parts or path.stem.endswith("_mirror") or not text.is_file():
            continue
        first = text.read_text(encoding="utf-8").splitlines()[0]
        listed.append(
            (path, re.sub(r"^(an?|the|some) ", "", first.strip().rstrip(".!"), flags=re.IGNORECASE))
        )
    return listed


def on_white(path: Path) -> Image.Image:
    """An RGB image, transparent parts white, padded to a square so that nothing is cut off."""
    image = Image.open(path).convert("RGBA")
    side = max(image.size)
    canvas = Image.new("RGB", (side, side), "white")
    canvas.paste(image, ((side - image.width) // 2, (side - image.height) // 2), image)
    return canvas


def write_guard_set(listed: Sequence[tuple[Path, str]], folder: Path) -> None:
    """Write them as a guard set of `pipeline.yaml`: a folder a name; what is there stays."""
    if folder.is_dir():
        return
    staging = folder.with_suffix(".partial")
    shutil.rmtree(staging, ignore_errors=True)
    for number, (path, name) in enumerate(listed):
        of_class = staging / name.casefold().replace("/", " ")
        of_class.mkdir(parents=True, exist_ok=True)
        on_white(path).save(of_class / f"{number:04d}.png")
    staging.rename(folder)


def top1_of_photographs(clip: Clip, listed: Sequence[tuple[Path, str]]) -> float:
    """Zero-shot top-1 in percent among all names, with one prompt a name."""
    names = sorted({name for _, name in listed})
    head = clip.encode_texts([f"a photo of a {name}" for name in names])
    vectors = []
    for start in range(0, len(listed), 64):
        images = [clip.preprocess(on_white(path)) for path, _ in listed[start : start + 64]]
        vectors.append(clip.encode_images(torch.stack(images)))
    predicted = (torch.cat(vectors) @ head.T).argmax(dim=1).tolist()
    return 100 * float(
        np.mean([names[place] == name for place, (_, name) in zip(predicted, listed, strict=True)])
    )


def measure(
    project: Project, slug: str, method: str, weight: float, listed: Sequence[tuple[Path, str]]
) -> list[float]:
    """Top-1 in percent on the domain's drawings and on the photographs, of a checkpoint at a
    weight.

    Raises:
        MissingArtifact: If the demo was not run.
    """
    base = method == "base"
    stage, key = (
        ("base_checkpoint", ALL) if base else ("customized_checkpoint", method_key(slug, method))
    )
    checkpoint = fresh_or_none(project, stage, key)
    if checkpoint is None:
        raise MissingArtifact(f"{key}: has no fresh `{stage}`; run `make demo` first")
    clip, top1 = top1_at(project, checkpoint, weight, slug)
    return [top1, top1_of_photographs(clip, listed)]


def top1_at(project: Project, checkpoint: Artifact, weight: float, slug: str) -> tuple[Clip, float]:
    """A checkpoint at a weight, and its top-1 in percent on the evaluation set of a domain."""
    domain = project.domain(slug)
    clip, head = load_classifier(checkpoint, None, domain, choose_device(project.config.device))
    if weight < 1:
        scale_gates(gated_layers(clip.model).values(), weight)
    images = read_images(fresh(project, "evaluation_set", slug), domain)
    vectors = encode_images(project.config, clip, images, precision=EVALUATION_PRECISION)
    right = (vectors @ head.vectors.numpy()).argmax(axis=1) == images["class_id"].to_numpy()
    return clip, 100 * float(right.mean())


def main() -> None:
    """Measure the demo's models on photographs and print a table."""
    parser = make_parser(__doc__)
    parser.add_argument(
        "--folder", type=Path, default=None, help="stamps of Tux Paint that are there already"
    )
    parser.add_argument("--config", type=Path, default=None)
    options = parser.parse_args()
    project = Project.load(options.config)
    stamps = options.folder or download(project.config.store.parent / "photos")
    if stamps is None:
        print("skipped: no apt-get here; give --folder with the stamps of Tux Paint")
        return
    listed = photographs(stamps)
    write_guard_set(listed, project.config.store.parent / "photographs")
    rows = []
    for slug in DOMAINS:
        for method in ("base", METHOD, f"{METHOD}-control"):
            for weight in (1.0,) if method == "base" else WEIGHTS:
                drawings, photos = measure(project, slug, method, weight, listed)
                rows.append(
                    [
                        slug,
                        method,
                        "–" if method == "base" else f"{weight}",
                        f"{drawings:.1f}",
                        f"{photos:.1f}",
                    ]
                )
                print(*rows[-1], flush=True)
    names = ["customized for", "method", "weight", "its drawings", f"{len(listed)} photographs"]
    table = markdown_table(names, rows).rstrip()
    classes = len({name for _, name in listed})
    text = (
        f"{table}\n\nTop-1 in percent; photographs are classified among their {classes} names. "
        "One seed."
    )
    show_section(text, options.page, BEGIN, END)


if __name__ == "__main__":
    main()
