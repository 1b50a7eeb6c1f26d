"""A customized checkpoint as a folder that is used without this project's store.

Belongs here: the files that `Classifier.load` reads. Does not belong here: the model card and what
else `react-pipeline export` adds (`export`), how a model is saved and loaded (`clip`).

The folder::

    open_clip_config.json         architecture and preprocessing, as open_clip's `local-dir:` reads
    open_clip_model.safetensors   the weights, byte for byte those of the checkpoint
    text/, tokenizer files        config and tokenizer of a text tower of transformers
    head.safetensors, head.json   one vector per class, and a bias if there is one; their names
    calibration.json              the temperature of the softmax, and on which labelled images it
                                  was fitted
    export.json                   what was exported, with the SHA-256 of every file
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from react_pipeline.clip import (
    CONFIG_FILE,
    HEAD_FILE,
    HEAD_RECORD_FILE,
    LOGIT_SCALE,
    WEIGHTS_FILE,
    ClassHead,
    domain_head,
    load,
    prompt_templates,
    read_config,
)
from react_pipeline.extensions.demo import IMAGE_TOWER
from react_pipeline.project import Project
from react_pipeline.stage import ALL
from react_pipeline.store import Artifact, CorruptArtifact, fsync_tree, link_or_copy, sha256_of
from react_pipeline.use import CALIBRATION_FILE, RECORD_FILE, find_calibration, trained_for

TEXT = "text/"
"""Where `model.save` puts config and tokenizer of a text tower of transformers."""

FORMAT = 1


@dataclass(frozen=True)
class ModelForm:
    """How an exported folder is read.

    Attributes:
        gated: It has gated blocks.
        new_modules: Which modules of extensions it has, that this package alone knows; "" for none.
        plain: Plain open_clip can load it, after it learned gated blocks if there are any.
        from_inside: Parts are found by relative paths, so open_clip must run inside the folder.
        head: Its class vectors were trained, on the base's model; else they are those of the class
            names.
    """

    gated: bool
    new_modules: str
    plain: bool
    from_inside: bool
    head: bool


def write_package(project: Project, checkpoint: Artifact, folder: Path) -> None:
    """Write an export without card into an empty folder, for `Classifier.load`; raises as
    `write_model`.

    On the store's disk it shares the weights with the store; those of a head are the base's.
    `calibration.json` is not in the record: `write_calibration` replaces it when the model is
    measured.
    """
    write_model(project, checkpoint, folder, link=True)
    write_head(project, checkpoint, folder)
    write_record(folder, checkpoint)
    write_calibration(project, checkpoint, folder)
    fsync_tree(folder)


def write_model(
    project: Project, checkpoint: Artifact, staging: Path, *, link: bool = False
) -> ModelForm:
    """Write every file that is read to use the model into an empty folder.

    Args:
        link: Share files with the store where that is possible, instead of copying them.

    Returns:
        How they are read.

    Raises:
        CorruptArtifact: If a copy differs from the manifest.
        InputError: If the checkpoint's configuration asks for code to be run.
    """
    head = HEAD_FILE in checkpoint.manifest["files"]
    # A champion may be of another base than today's.
    source = (
        project.store.open("base_checkpoint", ALL, checkpoint.parents["base_checkpoint"])
        if head
        else checkpoint
    )
    model_cfg, preprocess_cfg = read_config(source.file(CONFIG_FILE).parent)
    vision_cfg, text_cfg = model_cfg["vision_cfg"], model_cfg["text_cfg"]
    _copy(source, WEIGHTS_FILE, staging / WEIGHTS_FILE, link=link)
    for name in source.manifest["files"]:
        if name.startswith(TEXT):
            # open_clip's `local-dir:` looks for the tokenizer in the folder itself, for the tower's
            # config in `text/`.
            place = name if name == TEXT + "config.json" else name.removeprefix(TEXT)
            _copy(source, name, staging / place, link=link)
    if text_cfg.get("hf_tokenizer_name"):
        text_cfg["hf_tokenizer_name"] = "."
    config = {"model_cfg": model_cfg, "preprocess_cfg": preprocess_cfg}
    _write_json(staging / CONFIG_FILE, config)
    methods = [f"modules of the method {one['method']}" for one in model_cfg.get("added", ())]
    return ModelForm(
        gated=bool(vision_cfg.get("react_cfg")),
        new_modules=" and ".join(methods),
        # open_clip cannot learn modules of extensions, and knows no image tower of theirs.
        plain=not methods and vision_cfg.get("timm_model_name") != IMAGE_TOWER,
        from_inside=bool(text_cfg.get("hf_model_name") or text_cfg.get("hf_tokenizer_name")),
        head=head,
    )


def write_head(project: Project, checkpoint: Artifact, staging: Path) -> None:
    """Add the class vectors to a folder that holds the model: of a head the trained ones,
    else zero-shot.
    """
    domain = trained_for(project, checkpoint)
    if HEAD_FILE in checkpoint.manifest["files"]:
        _copy(checkpoint, HEAD_FILE, staging / HEAD_FILE)
        head_record = json.loads(checkpoint.file(HEAD_RECORD_FILE).read_text(encoding="utf-8"))
    else:
        head = domain_head(load(staging), domain)
        ClassHead(head).write(staging / HEAD_FILE)
        head_record = {"classes": domain.class_names, "templates": prompt_templates(domain)}
    _write_json(staging / HEAD_RECORD_FILE, {**head_record, "logit_scale": LOGIT_SCALE})


def write_calibration(project: Project, checkpoint: Artifact, folder: Path) -> None:
    """Write `calibration.json` by the checkpoint's newest result, else by the held-out pairs of
    a head; null where there is neither.

    Raises:
        MissingArtifact: If its class names are gone.
    """
    slug, method = checkpoint.key.split("/")
    domain = trained_for(project, checkpoint)
    temperature, calibrated_on = find_calibration(project, checkpoint, slug, method, domain)
    _write_json(
        folder / CALIBRATION_FILE, {"temperature": temperature, "calibrated_on": calibrated_on}
    )


def _copy(artifact: Artifact, name: str, place: Path, *, link: bool = False) -> None:
    place.parent.mkdir(exist_ok=True)
    if link:
        link_or_copy(artifact.file(name), place)
        return
    shutil.copyfile(artifact.file(name), place)
    if sha256_of(place) != artifact.manifest["files"][name]["sha256"]:
        raise CorruptArtifact(
            f"{place}: its bytes differ from those of {artifact.path / name}; export again, or "
            f"rematerialize `{artifact.stage}` for {artifact.key!r}"
        )


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def write_record(folder: Path, checkpoint: Artifact, **more: Any) -> None:
    """Write `export.json` last: it has the digest of every other file."""
    slug, method = checkpoint.key.split("/")
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    record = {
        "format": FORMAT,
        "domain": slug,
        "method": method,
        "fingerprint": checkpoint.fingerprint,
        "parents": checkpoint.parents,
        **more,
        "files": {path.relative_to(folder).as_posix(): sha256_of(path) for path in files},
    }
    _write_json(folder / RECORD_FILE, record)
