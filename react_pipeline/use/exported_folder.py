"""Export: a customized checkpoint as a folder that is used without this project's store.

Belongs here: which files the folder holds, and writing it whole or not at all. Does not belong
here: the text of its README (`model_card`), how a model is saved and loaded (`model`).

The folder::

    open_clip_config.json         architecture and preprocessing, as open_clip's `local-dir:` reads
    open_clip_model.safetensors   the weights, byte for byte those of the checkpoint
    react-<fingerprint>.json      the architecture alone, for open_clip 2.32; only where plain
                                  open_clip can load it
    text/, tokenizer files        config and tokenizer of a text tower of transformers
    head.safetensors, head.json   one vector per class, and a bias if there is one; their names
    calibration.json              the temperature of the softmax, and on which labelled images it
                                  was fitted
    model.onnx                    image tower and class vectors for onnxruntime; only if asked for
    README.md, export.json        the model card; what was exported, with the SHA-256 of every file
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from react_pipeline.clip import (
    HEAD_ABOUT_FILE,
    HEAD_FILE,
    LOGIT_SCALE,
    ClassHead,
    domain_head,
    encoder_of_tower,
    load,
    prompt_templates,
    require_allowed,
)
from react_pipeline.lineage import fresh
from react_pipeline.project import Project
from react_pipeline.promotion import HistoryEntry, champion_decision
from react_pipeline.stage import ALL, method_key
from react_pipeline.store import (
    Artifact,
    CorruptArtifact,
    InputError,
    StoreWriteError,
    fsync_tree,
    link_file,
    sha256_of,
)
from react_pipeline.use.chosen_model import CHAMPION, calibration_of, trained_for
from react_pipeline.use.classifier import CALIBRATION_FILE, RECORD_FILE
from react_pipeline.use.model_card import Loading, model_card
from react_pipeline.use.onnx_model import write_onnx
from react_pipeline.use.staged_folder import refuse_occupied, staged

CONFIG_FILE = "open_clip_config.json"
WEIGHTS_FILE = "open_clip_model.safetensors"
TEXT = "text/"
"""Where `model.save` puts config and tokenizer of a text tower of transformers."""

FORMAT = 1


def export(
    project: Project,
    slug: str,
    method: str,
    directory: Path | str,
    *,
    overwrite: bool = False,
    onnx: bool = False,
) -> Path:
    """Write the customized checkpoint of a domain and method as a folder of its own, with a model
    card.

    The folder appears when it is complete: it is written next to its place under a hidden name, and
    renamed last. With `overwrite` an earlier export at this place is kept until the new one is
    complete.

    Args:
        method: Its present checkpoint. `champion`: the champion's, also when it is an older one of
            its method, made from other inputs than today's, or of a domain whose file is gone.
        directory: The folder to make; empty or absent.
        overwrite: Replace an earlier export. Folders that hold anything that no export wrote are
            never replaced.
        onnx: Write the image tower with the class vectors as `model.onnx` too, see `onnx_model`.

    Returns:
        The folder, as an absolute path.

    Raises:
        MissingArtifact: If the method was not customized for this domain yet, or the champion's
            files are gone.
        StaleArtifact: If it was made from other inputs than today's.
        InputError: If the folder is in use, or holds something that may not be replaced; if the
            base is champion.
        StoreWriteError: If the disk refuses a write; the folder is then as it was.
    """
    checkpoint, decision = _checkpoint(project, slug, method)
    if Path(directory).expanduser().is_symlink():
        raise InputError(f"{directory}: is a link; name the folder itself")
    target = Path(directory).expanduser().resolve()
    refuse_occupied(target, overwrite)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with staged(target, overwrite) as staging:
            loading = write_model(project, checkpoint, staging)
            write_head(project, checkpoint, staging)
            write_calibration(project, checkpoint, staging)
            if onnx:
                loading = replace(loading, onnx_difference=write_onnx(staging))
            card = model_card(project, checkpoint, loading, decision)
            (staging / "README.md").write_text(card, encoding="utf-8")
            _write_record(staging, checkpoint, decision)
    except OSError as error:
        raise StoreWriteError(
            f"{error.filename or target}: {error.strerror or error}; nothing was exported to "
            f"{target}. Free space or choose another folder, and export again"
        ) from error
    return target


def _checkpoint(project: Project, slug: str, method: str) -> tuple[Artifact, HistoryEntry | None]:
    """The checkpoint to export, and the decision that made it champion if it is exported as that."""
    if method == "base":
        raise InputError("`base` is not customized; export one of the trained methods")
    if method != CHAMPION:
        project.domain(slug)
        return fresh(project, "customized_checkpoint", method_key(slug, method)), None
    if slug not in project.store.keys("promotion"):
        project.domain(slug)  # a domain whose file is gone may still have a champion
    decision = champion_decision(project, slug)
    if decision is None:
        raise InputError(
            f"{slug}: the base is champion, so there is no model to export; name a trained method"
        )
    key = method_key(slug, decision.champion.method)
    return project.store.open("customized_checkpoint", key, decision.champion.checkpoint), decision


def write_package(project: Project, checkpoint: Artifact, folder: Path) -> None:
    """Write an export without card into an empty folder, for `Classifier.load`; raises as
    `write_model`.

    On the store's disk it shares the weights with the store; those of a head are the base's.
    `calibration.json` is not in the record: `write_calibration` replaces it when the model is
    measured.
    """
    write_model(project, checkpoint, folder, link=True)
    write_head(project, checkpoint, folder)
    _write_record(folder, checkpoint, None)
    write_calibration(project, checkpoint, folder)
    fsync_tree(folder)


def write_model(
    project: Project, checkpoint: Artifact, staging: Path, *, link: bool = False
) -> Loading:
    """Write every file that is read to use the model into an empty folder.

    Args:
        link: Share files with the store where that is possible, instead of copying them.

    Returns:
        How they are read.

    Raises:
        CorruptArtifact: If a copy differs from the manifest.
        InputError: If the checkpoint's configuration asks for code to be run.
    """
    head = WEIGHTS_FILE not in checkpoint.manifest["files"]
    # A champion may be of another base than today's.
    source = (
        project.store.open("base_checkpoint", ALL, checkpoint.parents["base_checkpoint"])
        if head
        else checkpoint
    )
    config = json.loads(source.file(CONFIG_FILE).read_text(encoding="utf-8"))
    vision_cfg = config["model_cfg"]["vision_cfg"]
    text_cfg = config["model_cfg"]["text_cfg"]
    # The recipient of the folder reads it with plain open_clip, which hands these fields on.
    require_allowed(config["model_cfg"], source.path / CONFIG_FILE)
    _copy(source, WEIGHTS_FILE, staging / WEIGHTS_FILE, link=link)
    for name in source.manifest["files"]:
        if name.startswith(TEXT):
            # open_clip's `local-dir:` looks for the tokenizer in the folder itself, for the tower's
            # config in `text/`.
            place = name if name == TEXT + "config.json" else name.removeprefix(TEXT)
            _copy(source, name, staging / place, link=link)
    if text_cfg.get("hf_tokenizer_name"):
        text_cfg["hf_tokenizer_name"] = "."
    if "timm_model_name" in vision_cfg:
        # Else open_clip 2.32 would fetch weights that are overwritten at once.
        vision_cfg["timm_model_pretrained"] = False
    _write_json(staging / CONFIG_FILE, config)
    new_modules = _new_modules(config["model_cfg"])
    registered = None
    # Plain open_clip refuses new modules, and knows no image tower of an extension.
    if not new_modules and encoder_of_tower(vision_cfg.get("timm_model_name")) is None:
        # open_clip 2.32 chooses the tokenizer by the name of the architecture, so the domain's name
        # is kept out of it.
        registered = f"react-{checkpoint.fingerprint}"
        _write_json(staging / f"{registered}.json", config["model_cfg"])
    from_inside = bool(text_cfg.get("hf_model_name") or text_cfg.get("hf_tokenizer_name"))
    return Loading(new_modules, registered, from_inside, head)


def _new_modules(model_cfg: Mapping[str, Any]) -> str:
    added = [f"modules of the method {entry['method']}" for entry in model_cfg.get("added", ())]
    gated = ["gated blocks"] if model_cfg["vision_cfg"].get("react_cfg") else []
    return " and ".join(gated + added)


def write_head(project: Project, checkpoint: Artifact, staging: Path) -> None:
    """Add the class vectors to a folder that holds the model: of a head the trained ones,
    else zero-shot.
    """
    domain = trained_for(project, checkpoint)
    if HEAD_FILE in checkpoint.manifest["files"]:
        _copy(checkpoint, HEAD_FILE, staging / HEAD_FILE)
        head_record = json.loads(checkpoint.file(HEAD_ABOUT_FILE).read_text(encoding="utf-8"))
    else:
        head = domain_head(load(staging), domain)
        ClassHead(head).write(staging / HEAD_FILE)
        head_record = {
            "classes": domain.class_names,
            "templates": prompt_templates(domain),
            "embed_dim": len(head),
        }
    _write_json(staging / HEAD_ABOUT_FILE, {**head_record, "logit_scale": LOGIT_SCALE})


def write_calibration(project: Project, checkpoint: Artifact, folder: Path) -> None:
    """Write `calibration.json` by the checkpoint's newest result; null where no labelled images
    were measured.

    Raises:
        MissingArtifact: If its class names are gone.
    """
    slug, method = checkpoint.key.split("/")
    domain = trained_for(project, checkpoint)
    temperature, calibrated_on = calibration_of(project, checkpoint, slug, method, domain)
    _write_json(
        folder / CALIBRATION_FILE, {"temperature": temperature, "calibrated_on": calibrated_on}
    )


def _copy(artifact: Artifact, name: str, place: Path, *, link: bool = False) -> None:
    place.parent.mkdir(exist_ok=True)
    if link and link_file(artifact, name, place):
        return
    shutil.copyfile(artifact.file(name), place)
    if sha256_of(place) != artifact.manifest["files"][name]["sha256"]:
        raise CorruptArtifact(
            f"{place}: its bytes differ from those of {artifact.path / name}; export again, or "
            f"rematerialize `{artifact.stage}` for {artifact.key!r}"
        )


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _write_record(staging: Path, checkpoint: Artifact, decision: HistoryEntry | None) -> None:
    slug, method = checkpoint.key.split("/")
    files = sorted(path for path in staging.rglob("*") if path.is_file())
    record = {
        "format": FORMAT,
        "domain": slug,
        "method": method,
        "fingerprint": checkpoint.fingerprint,
        "parents": checkpoint.parents,
    }
    if decision is not None:
        record["promotion"] = decision.promotion
    record["files"] = {path.relative_to(staging).as_posix(): sha256_of(path) for path in files}
    _write_json(staging / RECORD_FILE, record)
