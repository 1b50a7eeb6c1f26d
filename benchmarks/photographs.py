"""Whether the demo's base learns photographs of fruit and vegetables in shops: methods and three
kinds of control, over seeds, with 95% intervals.

Run `.venv/bin/python -m benchmarks.photographs PHOTOS`, the folder of the photographs (see
`recipes/photographs`): `corpus/*.tar` are pairs found on the web, `grocery-test.tar` holds the
labelled images, and `grocery-fruit-veg.yaml` is the domain. A project for the photographs alone,
and one with the demo's drawings in the corpus, are made in `--work`; what their stores hold is not
made again.

Two more domains are sources of the pairs themselves: `HELD_OUT`. Their photographs leave the corpus
and become the labelled images, of the names that at least `COVERED` captions of others name; so
classes are chosen by names alone.

Controls: `random` pairs; `nameless`, random pairs whose caption names no tested class; and for
`gated-image`, which learns from captions, `shuffled`, the retrieved images with captions of other
classes.
"""

from __future__ import annotations

import io
import json
import os
import re
import tarfile
from collections.abc import Iterable, Mapping, Sequence
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

from benchmarks.demo_photos import top1_at
from benchmarks.demo_proof import (
    Correct,
    beside,
    correct_images,
    interval,
    shuffle_captions,
    trained,
)
from benchmarks.domain_vectors import DomainVectors, fitted
from benchmarks.pages import make_parser, show_section
from react_pipeline.clip import (
    ClassHead,
    from_parts,
)
from react_pipeline.embedding import read_metadata
from react_pipeline.evaluation.calibration import confidence, error_of_confidence
from react_pipeline.extensions.demo import build_base
from react_pipeline.extensions.demo.corpus import captions, drawn
from react_pipeline.extensions.demo.extension import FILES
from react_pipeline.extensions.methods import HeadMethod, HeadSamples
from react_pipeline.extensions.methods.few_shot import FewShotGda, FewShotNcm, joined
from react_pipeline.lineage import fresh, fresh_or_none, resolve, run
from react_pipeline.pages import markdown_table
from react_pipeline.project import Project
from react_pipeline.retrieval.chosen_pairs import write_pairs
from react_pipeline.retrieval.control import draw_pairs, seeded_random
from react_pipeline.retrieval.decontamination import read_kept_out
from react_pipeline.retrieval.images import Images, load_encoder
from react_pipeline.settings import DomainConfig, TrainingConfig
from react_pipeline.stage import ALL, method_key
from react_pipeline.store import Artifact, Scratch

SLUG, COARSE, FINE, DRAWINGS = "grocery", "grocery-coarse", "grocery-fine", "things"
GATED = "gated-image"
HELD_OUT = {
    "imagenet": ("imagenet-sample", "photographs of ImageNet"),
    "stamps": ("tuxpaint", "photographs of Tux Paint"),
}
COVERED = 5
METHODS = (GATED, "gda", "linear-head", "ncm")
CONTROLS = ("random", "nameless", "shuffled")
FEW_SHOT = {"few-shot-gda": FewShotGda(), "few-shot-ncm": FewShotNcm()}
SHOTS, DRAWS = (0, 1, 2, 4, 8, 16), 5
BEGIN, END = "<!-- photographs:begin -->", "<!-- photographs:end -->"


def write_project(photos: Path, work: Path, *, drawings: bool) -> Project:
    """Write the project: the demo's base and settings, the pairs, and the labelled images."""
    images = work / "images"
    if not images.is_dir():
        with tarfile.open(photos / "grocery-test.tar") as tar:
            tar.extractall(images, filter="data")
    shards = [photos / "corpus" / "*.tar"]
    if drawings:
        shards.append(_tar_of_drawings(work / "drawings.tar"))
    home = work / ("with-drawings" if drawings else "alone")
    things = yaml.safe_load((FILES / f"domains/{DRAWINGS}.yaml").read_text(encoding="utf-8"))
    domains = {DRAWINGS: things}
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
    return _project_at(home, shards, domains)


def _project_at(home: Path, shards: Sequence[Path], domains: Mapping[str, Any]) -> Project:
    config = yaml.safe_load((FILES / "pipeline.yaml").read_text(encoding="utf-8"))
    config |= {"project": home.name, "methods": ["base", *METHODS]}
    config["corpus"] = {"kind": "webdataset", "shards": [str(pattern) for pattern in shards]}
    config["retrieval"]["same_subject"] = "keep"
    (home / "domains").mkdir(parents=True, exist_ok=True)
    files = {f"domains/{slug}.yaml": fields for slug, fields in domains.items()}
    for path, fields in {"pipeline.yaml": config, **files}.items():
        (home / path).write_text(yaml.safe_dump(fields, sort_keys=False), encoding="utf-8")
    return Project.load(home / "pipeline.yaml")


def hold_out(photos: Path, work: Path, slug: str) -> tuple[Project, str]:
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
    return _project_at(home, shards, {slug: domain}), text


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


def draw_nameless(project: Project, slug: str, seed: int) -> Artifact:
    """Publish a control whose captions name no class."""
    inputs = resolve(project, "control_set", slug)
    rows = read_metadata(inputs.parents["corpus_embeddings"], ["caption", "image_sha256"])
    named = rows["caption"].str.contains(naming_classes(project.domain(slug)))
    refused = frozenset(rows.loc[named, "image_sha256"])
    size = inputs.parents["retrieved_set"].counts["pairs"]

    def write(directory: Path, _: Scratch) -> dict[str, Any]:
        clip = load_encoder(project, inputs.parents["base_checkpoint"])
        labelled, settings = inputs.parents["evaluation_set"], project.retrieval(slug)
        kept_out = read_kept_out(project, slug, labelled, settings.decontaminate, clip)
        kept_out = replace(kept_out, refused=refused)
        images = Images(project, inputs.parents, clip)
        drawn, dropped = draw_pairs(images, kept_out, settings, seeded_random(seed, slug), size)
        pairs = write_pairs(directory, drawn, images, settings)
        return {"pairs": len(pairs), "dropped": dropped, "seed": seed}

    return project.store.build(inputs, write)


def measure(project: Project, slug: str, seeds: int) -> tuple[dict[str, Correct], float]:
    """Return which images each method gets right, by method and kind of pairs, and the share of
    the pairs of the random control whose captions name a class.
    """
    for stage in ("corpus", "base_checkpoint", "corpus_embeddings", "faiss_index"):
        run(project, stage, ALL)
    run(project, "evaluation_set", slug)
    retrieved = run(project, "retrieved_set", slug)
    named, right = [], {"base": [correct_images(trained(project, slug, "base"))]}
    for seed in range(seeds):
        random, nameless = (
            beside(project, f"seeds/{seed}{kind}", seed) for kind in ("", "-nameless")
        )
        # This one gets a retrieved set of its own.
        shuffled = beside(project, f"seeds/{seed}-shuffled", seed, same_subject="keep")
        if fresh_or_none(nameless, "control_set", slug) is None:
            draw_nameless(nameless, slug, seed)
        shuffle_captions(shuffled, slug, retrieved, seed)
        for method in METHODS:
            control = f"{method}-control"
            of_kind = {
                method: trained(random, slug, method),
                f"{method} random": trained(random, slug, control),
                f"{method} nameless": trained(nameless, slug, control),
            }
            if method == GATED:
                of_kind[f"{method} shuffled"] = trained(shuffled, slug, method)
            for kind, result in of_kind.items():
                right.setdefault(kind, []).append(correct_images(result))
                print(
                    project.path.parent.name, slug, seed, kind, right[kind][-1].mean(), flush=True
                )
        pairs = fresh(random, "control_set", slug).file("pairs.parquet")
        captions = pd.read_parquet(pairs)["caption"]
        named.append(captions.str.contains(naming_classes(project.domain(slug))).mean())
    return {kind: np.stack(of_kind) for kind, of_kind in right.items()}, float(np.mean(named))


def few_shot(vectors: DomainVectors, photos: Path, picture: Path) -> str:
    """Return top-1 by the number of shots of each class, beside logistic regression on the same
    vectors, and draw it; shots are drawn from the train photographs.
    """
    shots, names = encoded(photos / "grocery-train.tar")
    classes = vectors.project.domain(SLUG).class_names
    shot_ids = torch.tensor([classes.index(name) if name in classes else -1 for name in names])
    figures: dict[str, list[list[float]]] = {name: [] for name in (*FEW_SHOT, "LR")}
    for count in SHOTS:
        found: dict[str, list[float]] = {name: [] for name in figures}
        for seed in range(DRAWS):
            order = torch.randperm(len(shots), generator=torch.Generator().manual_seed(seed))
            drawn = torch.cat([order[shot_ids[order] == c][:count] for c in range(len(classes))])
            own, ids = shots[drawn], shot_ids[drawn]
            for name, method in FEW_SHOT.items():
                head = fit(vectors, WithShots(method, own, ids), seed)
                found[name].append(vectors.top1(head))
            if count:
                model = LogisticRegression(C=1_000, max_iter=500).fit(own.numpy(), ids.numpy())
                found["LR"].append(model.score(vectors.images.numpy(), vectors.class_ids.numpy()))
        for name, values in found.items():
            figures[name].append(values)
    draw_curve(figures, picture)
    rows = [
        [name, *(_of_draws(values) if values else "–" for values in by_count)]
        for name, by_count in figures.items()
    ]
    return markdown_table(["shots of each class", *map(str, SHOTS)], rows).rstrip()


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


class WithShots:
    """A head whose samples get shots too."""

    def __init__(self, method: HeadMethod, shots: Tensor, shot_ids: Tensor) -> None:
        """Take unit vectors (S, D) and class ids (S,)."""
        self._method, self._shots = method, (shots, shot_ids)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._method, name)

    def fit(self, samples: HeadSamples, *others: Any) -> tuple[ClassHead, dict[str, Any]]:
        """Fit to the pairs and the shots."""
        return self._method.fit(joined(samples, *self._shots), *others)


def fit(vectors: DomainVectors, method: Any, seed: int) -> ClassHead:
    """Return the head that a training with a seed would publish."""
    training = TrainingConfig(**{**method.defaults, "seed": seed})
    near = vectors.project.retrieval(SLUG).near_duplicate_similarity
    samples = vectors.signs.samples
    return fitted(training, method, samples, samples.class_ids.numpy(), near)


def confidences(project: Project, vectors: DomainVectors, strangers: Tensor) -> str:
    """Return what confidence says of the labelled images, without and with the temperature of
    left-out pairs: its mean, its calibration error, and how well it tells them from others.

    Args:
        strangers: Unit vectors of the others (S, D).
    """
    ids, rows = vectors.class_ids.numpy(), []
    for method in METHODS[1:]:
        trained(project, vectors.slug, method)
        checkpoint = fresh(project, "customized_checkpoint", method_key(vectors.slug, method))
        head = ClassHead.read(checkpoint.file("head.safetensors"))
        record = json.loads(checkpoint.file("head.json").read_text(encoding="utf-8"))
        own, strange = ((100 * head.scores(one)).numpy() for one in (vectors.images, strangers))
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
    for, between the base and the trained model.
    """
    rows = []
    for method, weights in (("base", [0.0]), (GATED, [0.5, 1]), (f"{GATED}-control", [0.5, 1])):
        for weight in weights:
            checkpoint = (
                fresh(project, "base_checkpoint")
                if method == "base"
                else fresh(project, "customized_checkpoint", method_key(SLUG, method))
            )
            found = [top1_at(project, checkpoint, weight, slug)[1] for slug in (SLUG, DRAWINGS)]
            rows.append([method, f"{weight:g}", *(f"{top1:.1f}" for top1 in found)])
    return markdown_table(["method", "weight", "photographs", "drawings"], rows).rstrip()


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
        cells = [method, *(_spread(right, kind) for kind in (method, *kinds))]
        for other in ("base", *kinds):
            if other in right:
                gain, low, high = interval([right[method]], [right[other]])
                cells.append(f"{gain:+.1f} ({low:+.1f} to {high:+.1f})")
            else:
                cells.append("–")
        rows.append(cells)
    names = ["method", "top-1 %", *CONTROLS, *(f"over {kind}" for kind in ("base", *CONTROLS))]
    return markdown_table(names, rows).rstrip()


def _section(title: str, right: Mapping[str, Correct], named: float) -> str:
    share = f"{100 * named:.0f}% of the random pairs name a tested class"
    return f"{title}; {share}:\n\n{to_markdown(right)}"


def _spread(right: Mapping[str, Correct], kind: str) -> str:
    return _of_draws(right[kind].mean(axis=1).tolist()) if kind in right else "–"


def main() -> None:
    """Measure both corpora and write the tables."""
    parser = make_parser(__doc__)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--work", type=Path, default=Path(".react/photographs"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--picture", type=Path, help="the curve of shots; default: in --work")
    options = parser.parse_args()
    work = options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    strangers, names = encoded(options.photos / "grocery-test.tar")
    texts = []
    for drawings, title in ((False, "Without drawings"), (True, "With the demo's drawings")):
        project = write_project(options.photos.resolve(), work, drawings=drawings)
        run(project, "evaluation_set", DRAWINGS)
        slugs = {SLUG: title}
        if not drawings:
            slugs |= {
                COARSE: f"{title}, all 43 coarse classes, cartons among them",
                FINE: f"{title}, the 50 fine classes of fruit and vegetables",
            }
        for slug, text in slugs.items():
            right, named = measure(project, slug, options.seeds)
            texts.append(_section(text, right, named))
        vectors = DomainVectors.of(project, DRAWINGS if drawings else SLUG)
        first = beside(project, "seeds/0", 0)
        if drawings:
            texts += [
                f"Between the base and `{GATED}`, one seed:\n\n{interpolated(first)}",
                "Heads on the drawings of `things`; AUROC against the photographs:\n\n"
                + confidences(first, vectors, strangers),
            ]
        else:
            classes = project.domain(SLUG).class_names
            cartons = strangers[[name not in classes for name in names]]
            texts += [
                few_shot(vectors, options.photos, options.picture or work / "few-shot.png"),
                confidences(first, vectors, cartons),
            ]
    for slug in HELD_OUT:
        project, title = hold_out(options.photos.resolve(), work, slug)
        right, named = measure(project, slug, options.seeds)
        texts.append(_section(title, right, named))
    show_section("\n\n".join(texts), options.page, BEGIN, END)


if __name__ == "__main__":
    main()
