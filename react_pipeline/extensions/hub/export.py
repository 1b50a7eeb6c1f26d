"""Export: a customized checkpoint as a folder that is used without this project's store.

Belongs here: writing the folder whole or not at all. Does not belong here: the files that this
package reads (`use`), the text of the README (`card`), sending it anywhere (`push`).

Beside the files of `use.exported_folder`::

    gated_blocks.py               what open_clip needs to load gated blocks, without this package
    model.onnx, ...               of the formats that are asked for (`formats`)
    README.md                     the model card
"""

from __future__ import annotations

import inspect
import shutil
from collections.abc import Collection
from pathlib import Path

from react_pipeline.clip import GatedBlock
from react_pipeline.extensions.hub.card import model_card
from react_pipeline.extensions.hub.exported_folder import (
    write_calibration,
    write_head,
    write_model,
    write_record,
)
from react_pipeline.extensions.hub.formats import FORMATS, Exported
from react_pipeline.extensions.hub.staged_folder import refuse_occupied, staged
from react_pipeline.lineage import fresh
from react_pipeline.project import Project
from react_pipeline.promotion import HistoryEntry, champion_decision
from react_pipeline.stage import method_key
from react_pipeline.store import Artifact, InputError, StoreWriteError
from react_pipeline.use import CHAMPION, trained_for

GATED_FILE = "gated_blocks.py"


def export(
    project: Project,
    slug: str,
    method: str,
    directory: Path | str,
    *,
    overwrite: bool = False,
    formats: Collection[str] = (),
    licence: str = "other",
) -> Path:
    """Write the customized checkpoint of a domain and method as a folder with a model card.

    It appears when it is complete (`staged_folder`); until then an earlier export stays.

    Args:
        method: Its present checkpoint. `champion`: the champion's, also when it is an older one of
            its method, made from other inputs, or of a domain whose file is gone.
        directory: The folder to make; empty or absent.
        overwrite: Replace an earlier export, and nothing else.
        formats: Names of `FORMATS`, which are written beside open_clip's form.
        licence: Of the model, by its identifier on the Hub.

    Returns:
        The folder, as an absolute path.

    Raises:
        MissingArtifact: If the method was not customized yet, or the champion's files are gone.
        StaleArtifact: If it was made from other inputs than today's.
        InputError: If the folder may not be replaced, the base is champion, or a format is unknown
            or not for this model.
        StoreWriteError: If the disk refuses a write; the folder is then as it was.
    """
    if unknown := sorted({*formats} - FORMATS.keys()):
        raise InputError(f"--format {unknown[0]!r}: choose from {', '.join(FORMATS)}")
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
            if loading.gated and loading.registered:
                shutil.copyfile(inspect.getfile(GatedBlock), staging / GATED_FILE)
            domain = trained_for(project, checkpoint)
            exported = Exported(project, checkpoint, staging, domain, loading)
            facts = {name: write(exported) for name, write in FORMATS.items() if name in formats}
            card = model_card(exported, facts, licence, decision)
            (staging / "README.md").write_text(card, encoding="utf-8")
            promotion = {"promotion": decision.promotion} if decision else {}
            write_record(staging, checkpoint, **promotion, formats=facts)
    except OSError as error:
        raise StoreWriteError(
            f"{error.filename or target}: {error.strerror or error}; nothing was exported to "
            f"{target}. Free space or choose another folder, and export again"
        ) from error
    return target


def _checkpoint(project: Project, slug: str, method: str) -> tuple[Artifact, HistoryEntry | None]:
    """The checkpoint to export, and the decision that made it champion if it is exported as
    that.
    """
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
