"""What the demo's gain is: two arms, each with two controls, over seeds, with 95% intervals.

Run after `make demo`, whose corpus, index and base are used: `.venv/bin/python -m
benchmarks.demo_proof`.

Arms: `without the same drawing` keeps out of training every pair that shows an emoji of a class, by
whatever artist; `as it is` keeps them. Both train with the demo's recipe, which was chosen on other
domains (`benchmarks/choosing`). Controls: `control` trains on as many random pairs, drawn for each
seed and domain; `shuffled` trains on the retrieved images with captions of other classes, so that
all but the match of image and text is equal, and wrong names are learned.

Each arm and seed has a store of its own beside the demo's, with the shared artifacts linked in;
what a store holds is not made again, so the benchmark can be stopped and started again.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from benchmarks.pages import make_parser, show_section
from react_pipeline.evaluation import evaluate
from react_pipeline.lineage import fresh_or_none, resolve
from react_pipeline.pages import markdown_table
from react_pipeline.project import Project
from react_pipeline.retrieval import draw_control, load_encoder, retrieve_pairs
from react_pipeline.retrieval.chosen_pairs import write_pairs
from react_pipeline.retrieval.images import Images
from react_pipeline.settings import METHODS
from react_pipeline.settings.training import TrainingConfig
from react_pipeline.stage import encoder_in, method_key
from react_pipeline.store import Artifact, MissingArtifact, Scratch
from react_pipeline.training import customize

DOMAINS = ("activities", "objects", "symbols")
SHARED = ("corpus", "base_checkpoint", "corpus_embeddings", "faiss_index", "evaluation_set")
METHOD = "gated-image"
ARMS = {"without the same drawing": "exclude", "as it is": "keep"}
KINDS = ("", "control", "shuffled")
"""The method itself, and its two controls."""
RESAMPLES = 10_000
BEGIN, END = "<!-- proof:begin -->", "<!-- proof:end -->"

Correct = NDArray[np.bool_]
"""Which images are right, (seeds, N); the base has one row."""


def beside(
    project: Project,
    name: str,
    seed: int,
    methods: Mapping[str, Mapping[str, Any]] = {},
    *,
    same_subject: str | None = None,
) -> Project:
    """The same project with another training, in a store `name` beside its own that shares what
    does not depend on it.

    Args:
        project: Its own store is left alone.
        name: Path of the store, relative to the folder of the project's.
        seed: Of the training and of the control.
        methods: Fields of the training by method; they win over what is configured.
        same_subject: Of the retrieval; unset: the project's own, whose retrieved pairs are shared
            too.

    Raises:
        MissingArtifact: If the demo was not run.
    """
    store = project.config.store.parent / name
    for stage in (*SHARED, *(("retrieved_set",) if same_subject is None else ())):
        if not (project.config.store / stage).is_dir():
            raise MissingArtifact(
                f"{project.config.store}: has no `{stage}`; run `make demo` first"
            )
        # Linked again each time, so that a rebuilt corpus is never mixed with the pairs of an older
        # one.
        shutil.rmtree(store / stage, ignore_errors=True)
        shutil.copytree(project.config.store / stage, store / stage, copy_function=os.link)
    (store / "store.json").write_bytes((project.config.store / "store.json").read_bytes())
    customization, retrieval = project.config.customization, project.config.retrieval
    own = {method: customization.methods.get(method, TrainingConfig()) for method in methods}
    changed = {
        "defaults": _joined(customization.defaults, {"seed": seed}),
        "methods": {
            **customization.methods,
            **{name: _joined(own[name], fields) for name, fields in methods.items()},
        },
    }
    update: dict[str, Any] = {
        "store": store,
        "customization": customization.model_copy(update=changed),
    }
    if same_subject is not None:
        update["retrieval"] = retrieval.model_copy(update={"same_subject": same_subject})
    return Project(project.path, project.config.model_copy(update=update))


def customize_with_pairs(project: Project, slug: str, method: str) -> Artifact:
    """Train a method; the control of a seed that has none is drawn first."""
    if METHODS[method].is_control and fresh_or_none(project, "control_set", slug) is None:
        draw_control(project, slug)
    return customize(project, slug, method)


def _joined(overrides: TrainingConfig, fields: Mapping[str, Any]) -> TrainingConfig:
    return TrainingConfig(**{**overrides.model_dump(exclude_unset=True), **fields})


def shuffle_captions(project: Project, slug: str, retrieved: Artifact, seed: int) -> Artifact:
    """Publish the images of a retrieved set with captions of other classes as the retrieved set of
    `project`.

    Pairs are ordered by class and each takes the caption from half of the table further on, so that
    no pair keeps a caption of its class unless the class has more than half of all pairs.
    """
    inputs = resolve(project, "retrieved_set", slug)

    def choose(directory: Path, scratch: Scratch) -> dict[str, Any]:
        clip = load_encoder(project, inputs.parents[encoder_in(inputs.parents)])
        images = Images(project, inputs.parents, clip)
        pairs = pd.read_parquet(retrieved.file("pairs.parquet"))
        pairs = pairs.sample(frac=1, random_state=seed).sort_values(
            "class", kind="stable", ignore_index=True
        )
        pairs["caption"] = np.roll(pairs["caption"], len(pairs) // 2)
        images.look(pairs["row"].to_numpy())
        written = write_pairs(directory, pairs, images, project.retrieval(slug))
        return {
            **retrieved.counts,
            "pairs": len(written),
            "captions": "shuffled between classes",
        }

    return project.store.build(inputs, choose)


def trained(project: Project, slug: str, method: str) -> Artifact:
    """The published result of a method, made if it is not there."""
    if (
        method != "base"
        and fresh_or_none(project, "customized_checkpoint", method_key(slug, method)) is None
    ):
        customize_with_pairs(project, slug, method)
    return fresh_or_none(project, "domain_results", method_key(slug, method)) or evaluate(
        project, slug, method
    )


def correct_images(result: Artifact) -> NDArray[np.bool_]:
    """Whether each image of a result is right at rank 1, (N,)."""
    predictions = pd.read_parquet(result.file("predictions.parquet"))
    return np.asarray(predictions["predicted"].str[0] == predictions["class_id"])


def measure(project: Project, arm: str, slug: str, seeds: int) -> dict[str, Correct]:
    """The base, the method and its controls on one domain in one arm, by kind; "base" and those of
    `KINDS`.
    """
    rows: dict[str, list[NDArray[np.bool_]]] = {"base": [], **{kind: [] for kind in KINDS}}
    for seed in range(seeds):
        store = f"proof/{ARMS[arm]}/{seed}"
        one = beside(project, store, seed, same_subject=ARMS[arm])
        other = beside(project, f"{store}-shuffled", seed, same_subject=ARMS[arm])
        retrieved = fresh_or_none(one, "retrieved_set", slug) or retrieve_pairs(one, slug)
        if fresh_or_none(other, "retrieved_set", slug) is None:
            shuffle_captions(other, slug, retrieved, seed)
        results = {
            "": trained(one, slug, METHOD),
            "control": trained(one, slug, f"{METHOD}-control"),
        }
        results["shuffled"] = trained(other, slug, METHOD)
        if seed == 0:
            results["base"] = trained(one, slug, "base")
        for kind, result in results.items():
            rows[kind].append(correct_images(result))
            print(arm, slug, seed, kind or METHOD, f"{100 * rows[kind][-1].mean():.1f}", flush=True)
    return {kind: np.stack(of_kind) for kind, of_kind in rows.items()}


def interval(
    first: Sequence[Correct], second: Sequence[Correct], seed: int = 0
) -> tuple[float, float, float]:
    """Mean over domains of the difference of two methods in top-1, percentage points, and its 95%
    interval.

    Bootstrap over images, drawn within each domain and together for both methods, and over the
    seeds of each method.
    """
    random = np.random.default_rng(seed)
    gains, drawn = np.zeros(RESAMPLES), []
    for one, other in zip(first, second, strict=True):
        images = (
            random.multinomial(one.shape[1], np.full(one.shape[1], 1 / one.shape[1]), RESAMPLES)
            / one.shape[1]
        )
        for sign, of_method in ((1, one), (-1, other)):
            chances = np.full(len(of_method), 1 / len(of_method))
            seeds = random.multinomial(len(of_method), chances, RESAMPLES) / len(of_method)
            gains += sign * np.einsum("rn,sn,rs->r", images, of_method, seeds, optimize=True)
        drawn.append(one.mean() - other.mean())
    low, high = np.quantile(100 * gains / len(first), (0.025, 0.975))
    return 100 * float(np.mean(drawn)), float(low), float(high)


def to_markdown(figures: Mapping[str, Mapping[str, Mapping[str, Correct]]]) -> str:
    """The table of both arms and the gains with their intervals; `figures` by arm, domain
    and kind.
    """
    arms, domains = list(figures), list(next(iter(figures.values())))
    names = ["top-1 %", "base", *(f"{arm}, {kind or METHOD}" for arm in arms for kind in KINDS)]
    columns = [(arms[0], "base"), *((arm, kind) for arm in arms for kind in KINDS)]
    rows = [
        [slug, *(f"{100 * figures[arm][slug][kind].mean():.1f}" for arm, kind in columns)]
        for slug in domains
    ]
    means = [
        100 * np.mean([figures[arm][slug][kind].mean() for slug in domains])
        for arm, kind in columns
    ]
    rows.append(["mean", *(f"{mean:.1f}" for mean in means)])
    gains = []
    for arm in arms:
        for label, chosen in [*((slug, [slug]) for slug in domains), ("mean", domains)]:
            of_kind = {
                kind: [figures[arm][slug][kind] for slug in chosen]
                for kind in ("base", "", "control")
            }
            drawn = [interval(of_kind[""], of_kind[other]) for other in ("base", "control")]
            gains.append(
                [
                    arm,
                    label,
                    *(f"{gain:+.1f} ({low:+.1f} to {high:+.1f})" for gain, low, high in drawn),
                ]
            )
    heads = ["points (95% interval)", "domain", "over base", "over control"]
    return f"{markdown_table(names, rows).rstrip()}\n\n{markdown_table(heads, gains).rstrip()}"


def named_classes(project: Project, slug: str) -> NDArray[np.bool_]:
    """Whether each evaluation image is of a class whose name is in a caption that was retrieved for
    it, (N,).
    """
    pairs = pd.read_parquet(project.store.current("retrieved_set", slug).file("pairs.parquet"))
    says = [
        name.lower() in caption.lower()
        for name, caption in zip(pairs["class"], pairs["caption"], strict=True)
    ]
    images = pd.read_parquet(project.store.current("evaluation_set", slug).file("images.parquet"))
    return images["class"].isin(set(pairs.loc[says, "class"])).to_numpy()


def split_table(
    named: Mapping[str, NDArray[np.bool_]], figures: Mapping[str, Mapping[str, Correct]]
) -> str:
    """Top-1 of one arm on the classes that retrieved captions name, and on the others."""
    rows = []
    for slug, of_named in named.items():
        for label, images in (("named", of_named), ("not named", ~of_named)):
            means = [
                100 * figures[slug][kind][:, images].mean() for kind in ("base", "", "control")
            ]
            rows.append([slug, label, str(int(images.sum())), *(f"{mean:.1f}" for mean in means)])
    return markdown_table(
        ["domain", "class in a retrieved caption", "images", "base", METHOD, "control"], rows
    ).rstrip()


def draw(figures: Mapping[str, Mapping[str, Mapping[str, Correct]]], path: Path) -> None:
    """Bars of mean top-1 by domain: base, then method and controls of each arm; whiskers: one sd
    over the seeds.
    """
    arms, domains = list(figures), list(next(iter(figures.values())))
    shades = {
        "": ("#08519c", "#a63603"),
        "control": ("#6baed6", "#fd8d3c"),
        "shuffled": ("#c6dbef", "#fdd0a2"),
    }
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    axes = figure.subplots()
    bars = [(arms[0], "base"), *((arm, kind) for arm in arms for kind in KINDS)]
    width = 0.9 / len(bars)
    for number, (arm, kind) in enumerate(bars):
        values = [100 * figures[arm][slug][kind].mean(axis=1) for slug in domains]
        values.append(np.mean(values, axis=0))
        places = [place + (number - (len(bars) - 1) / 2) * width for place in range(len(values))]
        label = "base" if kind == "base" else f"{arm}: {kind or METHOD}"
        colour = "#888888" if kind == "base" else shades[kind][arms.index(arm)]
        means = [value.mean() for value in values]
        drawn = axes.bar(
            places,
            means,
            width * 0.94,
            yerr=[v.std(ddof=min(1, len(v) - 1)) for v in values],
            label=label,
            color=colour,
        )
        if kind in ("base", ""):
            axes.bar_label(drawn, fmt="%.0f", fontsize=8, padding=2)
    axes.set_xticks(range(len(domains) + 1), [*domains, "mean"])
    axes.set_ylabel("zero-shot top-1 %")
    axes.margins(y=0.12)
    axes.set_ylim(0)
    figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    figure.savefig(path, dpi=120)


def main() -> None:
    """Train and evaluate both arms, print the tables, and write them and the picture where asked
    to.
    """
    parser = make_parser(__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--domains", nargs="+")
    parser.add_argument("--config", type=Path, default=None)
    parser.add_argument("--figure", type=Path, default=None, help="draw the means into this PNG")
    options = parser.parse_args()
    project = Project.load(options.config)
    domains = options.domains or DOMAINS
    figures = {
        arm: {slug: measure(project, arm, slug, options.seeds) for slug in domains} for arm in ARMS
    }
    arm = next(iter(ARMS))
    first = beside(project, f"proof/{ARMS[arm]}/0", 0, same_subject=ARMS[arm])
    named = {slug: named_classes(first, slug) for slug in domains}
    table = f"{to_markdown(figures)}\n\nIn the arm {arm}:\n\n{split_table(named, figures[arm])}"
    show_section(table, options.page, BEGIN, END)
    if options.figure is not None:
        draw(figures, options.figure)


if __name__ == "__main__":
    main()
