"""The model card: a README in Markdown that says what an exported model is made of, how good it is,
how it is loaded.

Belongs here: the text with the Hub's metadata, and the escaping of what comes from outside. Does
not belong here: writing files (`export`), measuring (`evaluate`). Every figure is read from a
verified artifact, of the exported checkpoint's own making where it is not today's; unknown figures
are marked as such.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import open_clip
from huggingface_hub import ModelCardData
from markupsafe import Markup

from react_pipeline.clip import GATED_PREFIX, read_config
from react_pipeline.evaluation import EvalResult, collect_evidence
from react_pipeline.extensions.demo import ENCODER_INGREDIENTS
from react_pipeline.extensions.hub.exported_folder import ModelForm
from react_pipeline.extensions.hub.onnx_model import Facts
from react_pipeline.lineage import fresh_or_none
from react_pipeline.pages import escaped, markdown_table, render
from react_pipeline.project import Project
from react_pipeline.promotion import HistoryEntry, find_results
from react_pipeline.settings import CONTROL_SUFFIX, DEMO, HUB_PREFIX
from react_pipeline.stage import (
    ALL,
    CORPUS_EMBEDDINGS,
    FEW_SHOT_SET,
    RETRIEVAL_CHECKPOINT,
    method_key,
)
from react_pipeline.store import Artifact, InputError
from react_pipeline.use import trained_for, training_pairs

MAX_NAMES = 200
"""Class names beyond this many are counted, not listed."""


def model_card(
    project: Project,
    checkpoint: Artifact,
    form: ModelForm,
    formats: Mapping[str, Facts],
    licence: str,
    decision: HistoryEntry | None = None,
) -> str:
    """Return the README of an exported checkpoint, in Markdown.

    Args:
        form: How the folder is read.
        formats: What was measured of each further format.
        licence: Its identifier on the Hub.
        decision: What made it champion, if it is exported as that.

    Raises:
        MissingArtifact: If something that the checkpoint was made from is gone.
    """
    slug, method = checkpoint.key.split("/")
    title, description = slug, ""
    with suppress(InputError):  # its file is gone, and its champion is not
        domain = project.domain(slug)
        title, description = domain.title or slug, domain.description
    measured, figures = _figures(method, _shown_results(project, checkpoint, decision))
    made_from = _ingredients(project, checkpoint)
    text = render(
        "extensions/hub",
        "model_card.md",
        title=title,
        description=description,
        slug=slug,
        method=method,
        decision=decision,
        loading=form,
        formats=formats,
        measured=measured,
        figures=figures,
        evidence=_evidence(project, checkpoint, labels=measured is not None),
        class_names=trained_for(project, checkpoint).class_names,
        max_names=MAX_NAMES,
        control=method.endswith(CONTROL_SUFFIX),
        **made_from,
        **ingredients(project),
    )
    metadata = ModelCardData(
        license=licence,
        library_name="open_clip" if form.plain else "react_pipeline",
        pipeline_tag="zero-shot-image-classification",
        tags=["clip", "react", method],
        base_model=_base_on_hub(made_from["base"]),
    )
    return f"---\n{metadata.to_yaml()}\n---\n\n{text}"


def _base_on_hub(base: Mapping[str, Any]) -> str | None:
    """Return the name of a base model on the Hub; None where it has none."""
    pretrained = str(base.get("pretrained"))
    if pretrained.startswith(HUB_PREFIX):
        return pretrained.removeprefix(HUB_PREFIX).partition("@")[0]
    tag = open_clip.get_pretrained_cfg(_name(base), pretrained) or {}
    return str(tag.get("hf_hub") or "").strip("/") or None


def _name(base: Mapping[str, Any]) -> str:
    return str(base.get("model")).removeprefix(GATED_PREFIX)


def _shown_results(
    project: Project, checkpoint: Artifact, decision: HistoryEntry | None
) -> dict[str, EvalResult | None]:
    """Return the fresh results of the base, the model and its control, None where there is none; of
    an older champion its own alone, for today's others were not made as this one.
    """
    slug, method = checkpoint.key.split("/")
    trained = method.removesuffix(CONTROL_SUFFIX)
    shown: dict[str, Artifact | None] = dict.fromkeys(("base", trained, trained + CONTROL_SUFFIX))
    with suppress(InputError):  # the domain's file is gone
        for name in shown:
            shown[name] = fresh_or_none(project, "domain_results", method_key(slug, name))
    result = shown[method]
    if decision and (result is None or checkpoint.fingerprint not in result.parents.values()):
        shown = dict.fromkeys(shown)
        if own := find_results(project, slug, method, checkpoint.fingerprint):
            shown[method] = own[0].artifact
    return {name: None if one is None else EvalResult.read(one) for name, one in shown.items()}


def _figures(
    method: str, results: Mapping[str, EvalResult | None]
) -> tuple[EvalResult | None, Markup]:
    """Return a result that says on what was measured, and the table."""
    measured: EvalResult | None = None
    rows: list[list[Any]] = []
    for name, result in results.items():
        shown = Markup(escaped(name))  # noqa: S704
        if name == method:
            shown = Markup("**{}** (this model)").format(shown)
        row = [shown, "not evaluated", "", ""]
        if result is not None and result.top1 is None:
            row[1] = f"unavailable: {result.unavailable or 'no reason given'}"
        elif result is not None and result.top1 is not None:
            measured = result
            mean = "" if result.mean_per_class is None else f"{100 * result.mean_per_class:.1f}"
            row = [shown, f"{100 * result.top1:.1f}", mean, str(result.n)]
        rows.append(row)
    table = markdown_table(["method", "top-1 %", "mean per class %", "images"], rows)
    return measured, Markup(table)  # noqa: S704


def _evidence(
    project: Project, checkpoint: Artifact, *, labels: bool
) -> list[tuple[str, list[str]]]:
    """Return each kind of evidence on this very model: how it was obtained, and its sentences.

    What decides without labels is not shown beside results on them.
    """
    try:
        evidence = collect_evidence(project, checkpoint.key.split("/")[0])
    except InputError:  # the domain's file is gone
        return []
    sentences = [
        (one.explanation, one.sentences(checkpoint.fingerprint))
        for one in evidence.values()
        if not (labels and one.decides)
    ]
    return [one for one in sentences if one[1]]


def _ingredients(project: Project, checkpoint: Artifact) -> dict[str, Any]:
    """Return what the checkpoint was made from, for the template."""

    def encoder(stage: str, of: Artifact) -> dict[str, Any]:
        published = project.store.open(stage, ALL, of.parents[stage])
        return _encoder(published.manifest["config"], published)

    slug, method = checkpoint.key.split("/")
    methods = project.config.all_methods
    pairs = training_pairs(project, checkpoint)
    embeddings = project.store.open(CORPUS_EMBEDDINGS, ALL, pairs.parents[CORPUS_EMBEDDINGS])
    retrieves = RETRIEVAL_CHECKPOINT in pairs.parents
    shots = 0
    if FEW_SHOT_SET in checkpoint.parents:
        shot_set = project.store.open(FEW_SHOT_SET, slug, checkpoint.parents[FEW_SHOT_SET])
        shots = shot_set.counts["images"]
    return {
        "checkpoint": checkpoint,
        "pairs": pairs,
        "corpus": project.store.open("corpus", ALL, pairs.parents["corpus"]),
        "rows": embeddings.counts["rows"],
        "base": encoder("base_checkpoint", checkpoint),
        "retrieval": encoder(RETRIEVAL_CHECKPOINT, pairs) if retrieves else {},
        "shots": shots,
        "trains": methods[method].summary if method in methods else "see the documentation",
    }


def _encoder(config: Mapping[str, Any], published: Artifact) -> dict[str, Any]:
    """Return what a published encoder was configured as, without a name of open_clip that its
    folder belies.
    """
    shown = {name: config[name] for name in ("model", "pretrained")}
    if config["model"] != DEMO:
        tower = read_config(published.path)[0]["vision_cfg"]
        tower.pop("react_cfg", None)
        named = open_clip.get_model_config(_name(config))
        if not named or named["vision_cfg"] != tower:
            shown["model"] = "of its own open_clip_config.json"
    return shown


def ingredients(project: Project) -> dict[str, Sequence[tuple[str, str, str]]]:
    """Return the packages that corpus and base are made of; empty where there are none."""
    return {
        "corpus_sources": project.config.corpus.ingredients(),
        "base_sources": ENCODER_INGREDIENTS if project.config.encoder.is_demo else (),
    }
