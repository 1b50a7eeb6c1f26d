"""The model card: a README in Markdown that says what an exported model is made of, how good it is, how it is loaded.

Belongs here: the text, and the escaping of what comes from outside. Does not belong here: writing files (`export`),
measuring (`evaluate`). Every figure is read from a verified artifact, of the exported checkpoint's own making
where it is not today's; what is not known is said to be so.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from react_pipeline.demo import CORPUS_SOURCES, OTHER_SOURCES, Source
from react_pipeline.evaluation import EvalResult
from react_pipeline.lineage import fresh_or_none
from react_pipeline.pipeline import ALL, method_key
from react_pipeline.project import Project
from react_pipeline.promotion import Measured, Reign, results_of
from react_pipeline.settings import CONTROL_SUFFIX
from react_pipeline.store import Artifact, InputError

MAX_NAMES = 200
"""Class names beyond this many are counted, not listed."""

_TRAINS = {
    "gated-image": "new gated blocks in front of the last vision layers; every weight of the base is as it was, but "
    "for the logit scale",
    "locked-text": "the image tower and the logit scale; the text tower is the base's",
    "locked-image": "the text tower and the logit scale; the image tower is the base's",
    "full": "every weight",
    "linear-head": "one vector per class, on what the base makes of images; the model is the base's",
}
_JOINERS = "\u200c\u200d"
"""Invisible, and part of spelling in several scripts."""

_CITATIONS = """\
- REACT: Liu et al., *Learning Customized Visual Models with Retrieval-Augmented Knowledge*, CVPR 2023,
  [arXiv 2301.07094](https://arxiv.org/abs/2301.07094)
- ELEVATER: Li et al., *ELEVATER: A Benchmark and Toolkit for Evaluating Language-Augmented Visual Models*, NeurIPS
  2022, [arXiv 2204.08790](https://arxiv.org/abs/2204.08790)
- CLIP: Radford et al., *Learning Transferable Visual Models From Natural Language Supervision*, ICML 2021,
  [arXiv 2103.00020](https://arxiv.org/abs/2103.00020)
"""


@dataclass(frozen=True)
class Loading:
    """How an exported folder is read.

    Attributes:
        gated: It has gated blocks.
        registered: Name under which plain open_clip 2.32 gets the architecture; None where plain open_clip refuses it.
        from_inside: Parts are found by relative paths, so open_clip must run inside the folder.
        head: It holds a linear head beside the base's model.
    """

    gated: bool
    registered: str | None
    from_inside: bool
    head: bool


def model_card(project: Project, checkpoint: Artifact, loading: Loading, crowned: Reign | None = None) -> str:
    """The README of an exported checkpoint, in Markdown.

    Args:
        project: The pipeline.
        checkpoint: A `customized_checkpoint`, fresh or the champion's.
        loading: How the folder is read.
        crowned: The decision that made it champion, if it is exported as such.

    Raises:
        MissingArtifact: If something that the checkpoint was made from is gone.
    """
    slug, method = checkpoint.key.split("/")
    try:
        domain = project.domain(slug)
        title, description = escaped(domain.title or slug), escaped(domain.description)
    except InputError:  # its file is gone, and its champion is not
        title, description = escaped(slug), ""
    pairs = _pairs(project, checkpoint)
    names = _class_names(project, pairs)
    parts = [
        # Constants only: text from outside stays out of the YAML.
        "---\nlicense: other\npipeline_tag: zero-shot-image-classification\ntags: [clip, react]\n---",
        f"# CLIP customized for {title} ({method})",
        *([description] if description else []),
        f"Made by `react_pipeline` from class names alone. Domain `{slug}`, fingerprint `{checkpoint.fingerprint}`.",
        *([_crown(crowned)] if crowned else []),
        f"## How to load it\n\n{how_to_load(loading)}",
        f"## How good it is\n\n{_figures(project, checkpoint, crowned)}",
        f"## What it is made of\n\n{_ingredients(project, checkpoint, pairs, len(names))}",
        f"## Classes\n\n{_names(names)}",
        f"## Limits\n\n{_limits(method)}",
        f"## Licences\n\n{licences(project)}",
        f"## Please cite\n\n{_CITATIONS}",
    ]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def escaped(text: str) -> str:
    """Text from outside for a line of Markdown: no markup, HTML, link, line break or invisible sign comes through."""
    visible = (letter if letter in _JOINERS or unicodedata.category(letter)[0] != "C" else " " for letter in text)
    # A colon is what turns http into a link; a bar ends a cell of a table.
    return re.sub(r"([\\`*_{}\[\]()<>#|~!&:@$])", r"\\\1", " ".join("".join(visible).split()))


def how_to_load(loading: Loading) -> str:
    """The lines of Python that load the folder, in Markdown."""
    ours = (
        "```python\nfrom react_pipeline.clip.model import load\n\n"
        'clip = load("path/of/this/folder")  # clip.model, clip.preprocess, clip.tokenizer\n```'
    )
    parts = []
    if loading.gated:
        parts.append(
            "It has gated blocks, which plain open_clip does not know; open_clip refuses the folder rather than load "
            f"it without them. With `react_pipeline`:\n\n{ours}"
        )
    elif loading.registered is None:
        parts.append(f"Its architecture is `react_pipeline`'s own, and plain open_clip does not know it:\n\n{ours}")
    else:
        parts += [_open_clip(loading.registered, loading.from_inside), f"With `react_pipeline`:\n\n{ours}"]
    if loading.head:
        parts.append(
            "To classify: `head` has one column per class, in the order of `classes` in `head.json`; `images` is a "
            "batch of what `clip.preprocess` gives.\n\n"
            "```python\nfrom safetensors.torch import load_file\n\n"
            'head = load_file("path/of/this/folder/head.safetensors")["head"]\n'
            "class_ids = (clip.encode_images(images) @ head).argmax(dim=1)\n```"
        )
    return "\n\n".join(parts)


def _open_clip(name: str, from_inside: bool) -> str:
    inside = " Run Python inside this folder: the text tower is found by a relative path." if from_inside else ""
    folder = "." if from_inside else "path/of/this/folder"
    return (
        f"With open_clip 3 (`local-dir:`).{inside}\n\n"
        "```python\nimport open_clip\n\n"
        f'folder = "{folder}"\n'
        'model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")\n'
        'tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")\n'
        "model.eval()\n```\n\n"
        f"With open_clip 2.32, which has no `local-dir:`.{inside}\n\n"
        "```python\nimport json\n\nimport open_clip\n"
        "from open_clip.transform import PreprocessCfg, image_transform_v2\n\n"
        f'folder = "{folder}"\n'
        f'open_clip.add_model_config(f"{{folder}}/{name}.json")\n'
        f'model = open_clip.create_model("{name}", pretrained=f"{{folder}}/open_clip_model.safetensors").eval()\n'
        f'tokenizer = open_clip.get_tokenizer("{name}")\n'
        'with open(f"{folder}/open_clip_config.json") as file:\n'
        '    preprocess = image_transform_v2(PreprocessCfg(**json.load(file)["preprocess_cfg"]), is_train=False)\n```'
    )


def _crown(crowned: Reign) -> str:
    return (
        f"It is the champion of the domain by `promotion` `{crowned.promotion}` of {escaped(crowned.decided)}: "
        f"{escaped(crowned.reason)}"
    )


def _pairs(project: Project, checkpoint: Artifact) -> Artifact:
    """The pairs that it was trained on."""
    stage = "control_set" if checkpoint.key.endswith(CONTROL_SUFFIX) else "retrieved_set"
    return project.store.open(stage, checkpoint.key.split("/")[0], checkpoint.parents[stage])


def _class_names(project: Project, pairs: Artifact) -> list[str]:
    if pairs.stage == "control_set":
        pairs = project.store.open("retrieved_set", pairs.key, pairs.parents["retrieved_set"])
    return [str(entry["name"]) for entry in pairs.manifest["config"]["classes"]]


def _shown_results(project: Project, checkpoint: Artifact, crowned: Reign | None) -> dict[str, Artifact | None]:
    """Of the base, the model and its control: the fresh results; of an older champion its own, and a base like it."""
    slug, method = checkpoint.key.split("/")
    trained = method.removesuffix(CONTROL_SUFFIX)
    names = ("base", trained, trained + CONTROL_SUFFIX)
    found: dict[str, Artifact | None] = {}
    for name in names:
        try:
            found[name] = fresh_or_none(project, "domain_results", method_key(slug, name))
        except InputError:
            found[name] = None
    mine = found[method]
    if crowned is None or (mine is not None and mine.parents.get(checkpoint.stage) == checkpoint.fingerprint):
        return found
    known = results_of(project, slug, method, checkpoint.fingerprint)
    own = max(known, key=lambda entry: str(entry.artifact.manifest["created"]), default=None)
    base = None if found["base"] is None else Measured.of(found["base"])
    alike = own is not None and base is not None and base.measure == own.measure
    # Today's control was trained as today's model was, not as this one.
    return {**dict.fromkeys(names), "base": found["base"] if alike else None, method: own.artifact if own else None}


def _figures(project: Project, checkpoint: Artifact, crowned: Reign | None) -> str:
    method = checkpoint.key.split("/")[1]
    lines, about = [], ""
    for name, artifact in _shown_results(project, checkpoint, crowned).items():
        shown = f"**{name}** (this model)" if name == method else name
        if artifact is None:
            lines.append(f"| {shown} | not evaluated{', or not in the same way' if crowned else ''} | | |")
            continue
        result = EvalResult.read(artifact)
        if result.top1 is None:
            lines.append(f"| {shown} | unavailable: {escaped(result.unavailable or 'no reason given')} | | |")
            continue
        about = f"On {escaped(result.dataset)}: {result.n:,} labelled images, {result.n_classes} classes, without any "
        about += "training on labelled images. "
        mean = "" if result.mean_per_class is None else f"{100 * result.mean_per_class:.1f}"
        lines.append(f"| {shown} | {100 * result.top1:.1f} | {mean} | {result.n:,} |")
    table = "| method | top-1 % | mean per class % | images |\n|---|---|---|---|\n" + "\n".join(lines)
    told = "The control is the same training on as many random pairs; a gain that it shares is no gain of retrieval."
    return f"{about}{told}\n\n{table}"


def _ingredients(project: Project, checkpoint: Artifact, pairs: Artifact, classes: int) -> str:
    from react_pipeline.clip import encoder_fields  # loads torch

    base = project.store.open("base_checkpoint", ALL, checkpoint.parents["base_checkpoint"])
    corpus = project.store.open("corpus", ALL, pairs.parents["corpus"])
    method = checkpoint.key.split("/")[1]
    control = pairs.stage == "control_set"
    config, counts = checkpoint.manifest["config"], checkpoint.counts
    lines = [
        ("Base", f"{_fields(encoder_fields(base.manifest['config'], base.path))} (`{base.fingerprint}`)"),
        ("Corpus", f"kind {corpus.manifest['config']['kind']}, {_pairs_of(corpus)} (`{corpus.fingerprint}`)"),
    ]
    if control:
        lines.append(("Pairs", f"{pairs.counts['pairs']:,} drawn at random (`{pairs.fingerprint}`)"))
    else:
        modes = ", ".join(f"{mode} {count:,}" for mode, count in pairs.counts["pairs_by_mode"].items())
        found = f"{pairs.counts['pairs']:,} pairs for {pairs.counts['classes']} of {classes} classes, by mode: {modes}"
        lines.append(("Retrieved", f"{found} (`{pairs.fingerprint}`)"))
        if pairs.counts["starving"]:
            lines.append(("Classes with too few pairs", _names(pairs.counts["starving"])))
    fields = {name: value for name, value in config.items() if name not in ("method", "classes", "templates")}
    lines += [
        ("Method", f"{method}: trains {_TRAINS.get(method.removesuffix(CONTROL_SUFFIX), 'see the documentation')}"),
        ("Training", _fields(fields)),
        ("Parameters", f"{counts['trainable_parameters']:,} trained of {counts['parameters']:,}"),
    ]
    return "\n".join(f"- {name}: {text}" for name, text in lines)


def _pairs_of(corpus: Artifact) -> str:
    pairs = corpus.counts.get("pairs")
    return f"{corpus.counts['shards']:,} shards" + ("" if pairs is None else f", {pairs:,} pairs")


def _fields(values: dict[str, Any]) -> str:
    return ", ".join(
        f"{name.replace('_', ' ')} {escaped(str(value))}" for name, value in values.items() if value is not None
    )


def _names(names: Sequence[str]) -> str:
    more = f" and {len(names) - MAX_NAMES:,} more" if len(names) > MAX_NAMES else ""
    return f"{len(names):,}: {', '.join(escaped(name) for name in names[:MAX_NAMES])}{more}"


def _limits(method: str) -> str:
    parts = [
        "It is specialised to the classes above. What it can do elsewhere was not measured and may be less than the "
        "base can.",
        "Figures, where any stand above, hold for that labelled set and nothing else; small sets have wide intervals.",
        "Pairs were chosen by similarity alone, nobody looked at each of them: errors and biases of the corpus and of "
        "the base come through.",
    ]
    if method.endswith(CONTROL_SUFFIX):
        parts.insert(0, "It is a control, trained on random pairs: a yardstick, not a model to use.")
    return "\n".join(f"- {part}" for part in parts)


def licences(project: Project) -> str:
    """What is known of the licences of corpus and base, in Markdown; the rest is left to fill in, and says so."""
    parts = []
    demo_corpus, demo_base = project.config.corpus.kind == "demo", project.config.encoder.model == "demo"
    if demo_corpus:
        parts.append(f"The corpus is made of these packages:\n\n{_sources(CORPUS_SOURCES)}")
    else:
        parts.append("Corpus: as the corpus says. Fill in.")
    if demo_base:
        used = [source for source in OTHER_SOURCES if source.name in ("efficientnet", "minilm", "imagenet-names")]
        parts.append(f"The base is made of these packages:\n\n{_sources(used)}")
    else:
        parts.append("Base checkpoint: as the base checkpoint says. Fill in.")
    parts.append("What the customized weights may be used for follows from both.")
    return "\n\n".join(parts)


def _sources(sources: Iterable[Source]) -> str:
    rows = "\n".join(f"| `{source.package}` | {source.used} | {source.licence} |" for source in sources)
    return f"| package | what of it | licence |\n|---|---|---|\n{rows}"
