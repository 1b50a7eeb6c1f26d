"""Whether the demo's base learns photographs of fruit and vegetables in shops: methods and three
kinds of control, over seeds, with 95% intervals.

Run `.venv/bin/python -m benchmarks.photographs PHOTOS`, the folder of the photographs (see
`recipes/photographs`): `corpus/*.tar` are pairs found on the web, `grocery-test.tar` holds the
labelled images, and `grocery-fruit-veg.yaml` is the domain. A project for the photographs alone,
and one with the demo's drawings in the corpus, are made in `--work`.

Two more domains are sources of the pairs themselves: `HELD_OUT`. Their photographs leave the corpus
and become the labelled images, of the names that at least `COVERED` captions of others name; so
classes are chosen by names alone.

Controls: `random` pairs; `nameless`, random pairs whose caption names no tested class; and for
`gated-image`, which learns from captions, `shuffled` ones (`benchmarks.controls`).
"""

from __future__ import annotations

import io
import json
import os
import re
import tarfile
import tempfile
from collections.abc import Iterable, Mapping
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml
from matplotlib.figure import Figure
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from torch import Tensor

from benchmarks.controls import (
    GATED,
    Correct,
    demo_domain,
    gain,
    measure,
    shuffled,
    write_project,
)
from benchmarks.pages import make_parser, show_section
from react_pipeline.clip import (
    EVALUATION_PRECISION,
    ClassHead,
    Clip,
    choose_device,
    from_parts,
    gated_layers,
    load_classifier,
    scale_gates,
)
from react_pipeline.corpus import CollectedPairs
from react_pipeline.embedding import read_metadata
from react_pipeline.evaluation.calibration import confidence, error_of_confidence
from react_pipeline.extensions.demo import build_base, captions, drawn
from react_pipeline.extensions.methods.few_shot import joined
from react_pipeline.labelled import encode_images, read_images
from react_pipeline.lineage import fresh, resolve, run
from react_pipeline.pages import markdown_table
from react_pipeline.project import Project
from react_pipeline.retrieval import load_encoder
from react_pipeline.retrieval.control import draw_pairs, seeded_random
from react_pipeline.retrieval.decontamination import read_kept_out
from react_pipeline.retrieval.images import Images
from react_pipeline.settings import DomainConfig, TrainingConfig, draw_folder
from react_pipeline.stage import method_key
from react_pipeline.store import Inputs, Scratch
from react_pipeline.training import TrainingObserver
from react_pipeline.training.customization import Customization, World

SLUG, COARSE, FINE, DRAWINGS = "grocery", "grocery-coarse", "grocery-fine", "things"
HELD_OUT = {
    "imagenet": ("imagenet-sample", "photographs of ImageNet"),
    "stamps": ("tuxpaint", "photographs of Tux Paint"),
}
COVERED = 5
METHODS = (GATED, "gda", "linear-head", "ncm")
CONTROLS = ("random", "nameless", "shuffled")
FEW_SHOT = ("few-shot-gda", "few-shot-ncm")
SHOTS, DRAWS = (0, 1, 2, 4, 8, 16), 5
BEGIN, END = "<!-- photographs:begin -->", "<!-- photographs:end -->"


def write_grocery(photos: Path, work: Path, seeds: int, *, drawings: bool) -> Project:
    """Write the project: the demo's base and settings, the pairs, and the labelled images."""
    images = work / "images"
    if not images.is_dir():
        with tarfile.open(photos / "grocery-test.tar") as tar:
            tar.extractall(images, filter="data")
    shards = [photos / "corpus" / "*.tar"]
    if drawings:
        shards.append(_tar_of_drawings(work / "drawings.tar"))
    home = work / ("with-drawings" if drawings else "alone")
    domains = {DRAWINGS: demo_domain(DRAWINGS)}
    domain = yaml.safe_load((photos / "grocery-fruit-veg.yaml").read_text(encoding="utf-8"))
    listed = pd.read_csv(photos / "grocery-test.csv")
    own = listed[listed["fruit_or_vegetable"] == 1]
    cartons = sorted(listed.loc[listed["fruit_or_vegetable"] == 0, "coarse"].unique())
    for slug, rows, column, classes in (
        (SLUG, own, "coarse", domain["classes"]),
        (COARSE, listed, "coarse", [*domain["classes"], *cartons]),
        (FINE, own, "fine", sorted(own["fine"].unique())),
    ):
        labelled = home / "images" / slug
        for file, name in zip(rows["file"], rows[column], strict=True):
            place = labelled / name / Path(file).name
            place.parent.mkdir(parents=True, exist_ok=True)
            if not place.exists():
                os.link(images / file, place)
        evaluation = {"name": slug, "kind": "folder", "path": str(labelled)}
        domains[slug] = {**domain, "classes": classes, "evaluation": evaluation}
    return write_project(home, METHODS, seeds, "keep", domains, shards)


def hold_out(photos: Path, work: Path, seeds: int, slug: str) -> tuple[Project, str]:
    """Write the project of a domain of `HELD_OUT`, with the drawings in the corpus; return it and
    what its photographs are.
    """
    source, title = HELD_OUT[slug]
    pairs = pd.read_csv(photos / "corpus.csv")
    is_own = pairs["source"] == source
    names = pairs["caption"].str.casefold().str.rstrip(".").str.replace(r"^an? ", "", regex=True)
    others = pd.concat([pairs.loc[~is_own, "caption"], captions()["caption"]])
    own = dict(zip(pairs.loc[is_own, "key"], names[is_own], strict=True))
    classes = [
        name
        for name in sorted(set(own.values()))
        if others.str.contains(naming([name])).sum() >= COVERED
    ]
    home = work / slug
    labelled, rest = home / "images", home / "pairs.tar"
    if not rest.is_file():
        partial = rest.with_suffix(".partial")
        labelled.mkdir(parents=True, exist_ok=True)
        with tarfile.open(partial, "w") as kept:
            for path in sorted((photos / "corpus").glob("*.tar")):
                with tarfile.open(path) as tar:
                    for member in filter(tarfile.TarInfo.isfile, tar):
                        file = Path(member.name)
                        if file.stem not in own:
                            kept.addfile(member, tar.extractfile(member))
                        elif own[file.stem] in classes and file.suffix == ".jpg":
                            (labelled / own[file.stem]).mkdir(exist_ok=True)
                            content = tar.extractfile(member).read()
                            (labelled / own[file.stem] / file.name).write_bytes(content)
        partial.rename(rest)
    domain = {
        "title": title.capitalize(),
        "classes": classes,
        "templates": ["{}", "a photo of a {}"],
        "evaluation": {"name": slug, "kind": "folder", "path": str(labelled)},
    }
    count = len(list(labelled.rglob("*.jpg")))
    shards = [rest, _tar_of_drawings(work / "drawings.tar")]
    text = f"With the demo's drawings, {count} {title}, {len(classes)} names"
    return write_project(home, METHODS, seeds, "keep", {slug: domain}, shards), text


def _tar_of_drawings(path: Path) -> Path:
    """Draw the demo's corpus into a tar of pairs, once."""
    if path.is_file():
        return path
    table, partial = captions(), path.with_suffix(".partial")
    with tarfile.open(partial, "w") as tar:
        images = drawn(table["key"])
        for key, caption, image in zip(table["key"], table["caption"], images, strict=True):
            if isinstance(image, str):
                continue
            for name, data in ((f"{key}.png", image), (f"{key}.txt", caption.encode())):
                member = tarfile.TarInfo(name.replace("/", "_"))
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return partial.rename(path)


def naming_classes(domain: DomainConfig) -> re.Pattern[str]:
    """Return a pattern of captions that name a class or a synonym."""
    return naming([name for entry in domain.classes for name in (entry.name, *entry.synonyms)])


def naming(names: Iterable[str]) -> re.Pattern[str]:
    """Return a pattern of captions that have one of the names, in singular or plural."""
    return re.compile(rf"\b(?:{'|'.join(map(re.escape, names))})(?:e?s)?\b", re.IGNORECASE)


def nameless(project: Project, inputs: Inputs, images: Images, seed: int) -> pd.DataFrame:
    """Draw random pairs whose captions name no class."""
    slug, parents = inputs.key, inputs.parents
    rows = read_metadata(parents["corpus_embeddings"], ["caption", "image_sha256"])
    named = rows["caption"].str.contains(naming_classes(project.domain(slug)))
    clip, settings = load_encoder(project, parents["base_checkpoint"]), project.retrieval(slug)
    labelled = parents["evaluation_set"]
    kept_out = read_kept_out(project, slug, labelled, clip)
    kept_out = replace(kept_out, refused=frozenset(rows.loc[named, "image_sha256"]))
    size = parents["retrieved_set"].counts["pairs"]
    pairs, _ = draw_pairs(images, kept_out, settings, seeded_random(seed, slug), size)
    return pairs


def measured(title: str, project: Project, slug: str) -> str:
    """Measure a domain, and return its table below the share of random pairs whose captions name a
    class.
    """
    draws = {"nameless": (nameless, METHODS), "shuffled": (shuffled, [GATED])}
    table = to_markdown(measure(project, slug, draws))
    control, pattern = fresh(project, "control_set", slug), naming_classes(project.domain(slug))
    folders = ["", *(f"{draw_folder(seed)}/" for seed in project.config.seeds[1:])]
    pairs = [pd.read_parquet(control.file(f"{folder}pairs.parquet")) for folder in folders]
    share = np.mean([one["caption"].str.contains(pattern).mean() for one in pairs])
    return f"{title}; {100 * share:.0f}% of the random pairs name a tested class:\n\n{table}"


def few_shot(project: Project, photos: Path, picture: Path) -> str:
    """Return top-1 by the number of shots of each class, beside logistic regression on the same
    vectors, and draw it; shots are drawn from the train photographs.
    """
    images, class_ids = labelled_vectors(project, SLUG)
    shots, names = encoded(photos / "grocery-train.tar")
    classes = project.domain(SLUG).class_names
    shot_ids = torch.tensor([classes.index(name) if name in classes else -1 for name in names])
    figures: dict[str, list[list[float]]] = {name: [] for name in (*FEW_SHOT, "LR")}
    for count in SHOTS:
        found: dict[str, list[float]] = {name: [] for name in figures}
        for seed in range(DRAWS):
            order = torch.randperm(len(shots), generator=torch.Generator().manual_seed(seed))
            chosen = torch.cat([order[shot_ids[order] == c][:count] for c in range(len(classes))])
            own, ids = shots[chosen], shot_ids[chosen]
            for name in FEW_SHOT:
                right = fit(project, name, own, ids, seed).scores(images).argmax(dim=1) == class_ids
                found[name].append(float(right.double().mean()))
            if count:
                model = LogisticRegression(C=1_000, max_iter=500).fit(own.numpy(), ids.numpy())
                found["LR"].append(model.score(images.numpy(), class_ids.numpy()))
        for name, values in found.items():
            figures[name].append(values)
    draw_curve(figures, picture)
    rows = [
        [name, *(_of_draws(values) if values else "–" for values in by_count)]
        for name, by_count in figures.items()
    ]
    return markdown_table(["shots of each class", *map(str, SHOTS)], rows).rstrip()


def fit(project: Project, name: str, shots: Tensor, shot_ids: Tensor, seed: int) -> ClassHead:
    """Return the head that a method would publish with these shots: unit vectors (S, D), and class
    ids (S,).
    """
    method = copy(project.method(name))
    method.samples = lambda of_pairs, *_: joined(of_pairs, shots, shot_ids)  # type: ignore[attr-defined]
    inputs = resolve(project, "customized_checkpoint", method_key(SLUG, "gda"))
    base, retrieved = (inputs.parents[stage] for stage in ("base_checkpoint", "retrieved_set"))
    training, pairs = TrainingConfig(**{**method.defaults, "seed": seed}), CollectedPairs(retrieved)
    with tempfile.TemporaryDirectory() as staging:
        folder, domain = Path(staging), project.domain(SLUG)
        run_of = (project, inputs, World(), Scratch(folder), TrainingObserver(), folder)
        method.train(Customization(*run_of, domain, training, base, pairs))
        return ClassHead.read(folder / "head.safetensors")


def labelled_vectors(project: Project, slug: str) -> tuple[Tensor, Tensor]:
    """Return unit vectors (N, D) of the labelled images of a domain by the base, and class ids
    (N,).
    """
    clip = load_encoder(project, fresh(project, "base_checkpoint"))
    vectors, class_ids = _encode_labelled(project, slug, clip)
    return torch.from_numpy(vectors), torch.from_numpy(class_ids)


def _encode_labelled(project: Project, slug: str, clip: Clip) -> tuple[Any, Any]:
    images = read_images(fresh(project, "evaluation_set", slug), project.domain(slug))
    vectors = encode_images(project.config, clip, images, precision=EVALUATION_PRECISION)
    return vectors, images["class_id"].to_numpy()


def draw_curve(figures: Mapping[str, list[list[float]]], path: Path) -> None:
    """Draw top-1 of each draw's mean and spread against the number of shots."""
    figure = Figure(figsize=(6, 3.4), dpi=120, layout="constrained")
    panel = figure.subplots()
    for name, by_count in figures.items():
        places = [place for place, values in enumerate(by_count) if values]
        means = [100 * np.mean(by_count[place]) for place in places]
        spread = [100 * np.std(by_count[place], ddof=1) for place in places]
        label = "logistic regression on the shots alone" if name == "LR" else name
        panel.errorbar(places, means, spread, label=label, marker="o", capsize=3)
    panel.set_xticks(range(len(SHOTS)), map(str, SHOTS))
    panel.set(xlabel="labelled photographs of each class", ylabel="top-1, %", ylim=(0, None))
    panel.legend(frameon=False)
    figure.savefig(path, metadata={"Software": None})


def confidences(project: Project, slug: str, strangers: Tensor) -> str:
    """Return what confidence says of the labelled images, without and with the temperature of
    left-out pairs: its mean, its calibration error, and how well it tells them from others.

    Args:
        strangers: Unit vectors of the others (S, D).
    """
    vectors, class_ids = labelled_vectors(project, slug)
    ids, rows = class_ids.numpy(), []
    for method in METHODS[1:]:
        checkpoint = run(project, "customized_checkpoint", method_key(slug, method))
        head = ClassHead.read(checkpoint.file("head.safetensors"))
        record = json.loads(checkpoint.file("head.json").read_text(encoding="utf-8"))
        own, strange = ((100 * head.scores(one)).numpy() for one in (vectors, strangers))
        for label, temperature in (("none", 1.0), ("left-out pairs", record["temperature"])):
            sure, of_strangers = (confidence(one, temperature) for one in (own, strange))
            is_own = np.arange(len(sure) + len(of_strangers)) < len(sure)
            cells = [
                f"{100 * (own.argmax(axis=1) == ids).mean():.1f}",
                f"{100 * sure.mean():.1f}",
                f"{100 * error_of_confidence(own, ids, temperature):.1f}",
                f"{roc_auc_score(is_own, np.concatenate([sure, of_strangers])):.2f}",
            ]
            rows.append([method, label, *cells])
    heads = ["head", "temperature of", "top-1 %", "mean confidence %", "calibration error", "AUROC"]
    return markdown_table(heads, rows).rstrip()


def interpolated(project: Project) -> str:
    """Return top-1 on the photographs, and on the drawings of a domain that nothing was trained
    for, between the base and the trained model of the first seed.
    """
    rows = []
    for method, weights in (("base", [0.0]), (GATED, [0.5, 1]), (f"{GATED}-control", [0.5, 1])):
        for weight in weights:
            found = [top1_at(project, method, weight, slug) for slug in (SLUG, DRAWINGS)]
            rows.append([method, f"{weight:g}", *(f"{top1:.1f}" for top1 in found)])
    return markdown_table(["method", "weight", "photographs", "drawings"], rows).rstrip()


def top1_at(project: Project, method: str, weight: float, slug: str) -> float:
    """Return the top-1 in percent on the labelled images of a domain, of a method trained for the
    photographs, at a weight between the base (0) and itself (1).
    """
    place = ("customized_checkpoint", method_key(SLUG, method))
    checkpoint = fresh(project, *(("base_checkpoint",) if method == "base" else place))
    device = choose_device(project.config.device)
    clip, head = load_classifier(checkpoint, None, project.domain(slug), device)
    scale_gates(gated_layers(clip.model).values(), weight)
    vectors, class_ids = _encode_labelled(project, slug, clip)
    right = (vectors @ head.vectors.numpy()).argmax(axis=1) == class_ids
    return 100 * float(right.mean())


def encoded(tar: Path) -> tuple[Tensor, list[str]]:
    """Return unit vectors (N, D) of the photographs of a tar, and their classes."""
    base = from_parts(*build_base())
    vectors, names = [], []
    with tarfile.open(tar) as photographs:
        for member in filter(tarfile.TarInfo.isfile, photographs):
            image = Image.open(photographs.extractfile(member)).convert("RGB")
            vectors.append(base.encode_images(base.preprocess(image)[None]))
            names.append(member.name.split("/")[0])
    return torch.cat(vectors), names


def _of_draws(values: list[float]) -> str:
    return f"{100 * np.mean(values):.1f} ± {100 * np.std(values, ddof=1):.1f}"


def to_markdown(right: Mapping[str, Correct]) -> str:
    """Return the table of a corpus: means and spread over seeds, and gains with intervals."""
    rows = [["base", f"{100 * right['base'].mean():.1f}", *["–"] * (2 * len(CONTROLS) + 1)]]
    for method in METHODS:
        kinds = [f"{method} {kind}" for kind in CONTROLS]
        means = [
            _of_draws(right[kind].mean(axis=1).tolist()) if kind in right else "–"
            for kind in (method, *kinds)
        ]
        others = ("base", *kinds)
        gains = [gain([right[method]], [right[one]]) if one in right else "–" for one in others]
        rows.append([method, *means, *gains])
    names = ["method", "top-1 %", *CONTROLS, *(f"over {kind}" for kind in ("base", *CONTROLS))]
    return markdown_table(names, rows).rstrip()


def main() -> None:
    """Measure both corpora and write the tables."""
    parser = make_parser(__doc__)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--work", type=Path, default=Path(".react/photographs"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--picture", type=Path, help="the curve of shots; default: in --work")
    options = parser.parse_args()
    photos, work = options.photos.resolve(), options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    picture = options.picture or work / "few-shot.png"
    strangers, names = encoded(photos / "grocery-test.tar")
    alone, both = (
        write_grocery(photos, work, options.seeds, drawings=drawings) for drawings in (False, True)
    )
    title = "Without drawings"
    texts = [
        measured(title, alone, SLUG),
        measured(f"{title}, all 43 coarse classes, cartons among them", alone, COARSE),
        measured(f"{title}, the 50 fine classes of fruit and vegetables", alone, FINE),
        few_shot(alone, photos, picture),
    ]
    classes = alone.domain(SLUG).class_names
    cartons = strangers[[name not in classes for name in names]]
    texts += [confidences(alone, SLUG, cartons), measured("With the demo's drawings", both, SLUG)]
    for stage in ("evaluation_set", "retrieved_set"):
        run(both, stage, DRAWINGS)
    texts += [
        f"Between the base and `{GATED}`, one seed:\n\n{interpolated(both)}",
        "Heads on the drawings of `things`; AUROC against the photographs:\n\n"
        + confidences(both, DRAWINGS, strangers),
    ]
    for slug in HELD_OUT:
        project, title = hold_out(photos, work, options.seeds, slug)
        texts.append(measured(title, project, slug))
    show_section("\n\n".join(texts), options.page, BEGIN, END)


if __name__ == "__main__":
    main()
