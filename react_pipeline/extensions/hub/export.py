"""Export: a customized checkpoint as a folder that is used without this project's store, and as a
repository of the Hub.

Belongs here: writing the folder whole or not at all, sending it. Does not belong here: the files
that this package reads (`exported_folder`), the text of the README (`card`). The Hub's token is
huggingface_hub's own affair: it is in its environment variable or its store, and is neither read
nor shown here.

Beside the files of `exported_folder`::

    gated_blocks.py               what open_clip needs to load gated blocks, without this package
    model.onnx, model.int8.onnx   if they are asked for (`onnx_model`)
    README.md                     the model card
"""

from __future__ import annotations

import inspect
import re
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from huggingface_hub import HfApi, constants
from huggingface_hub.errors import HFValidationError

from react_pipeline.clip import GatedBlock
from react_pipeline.extensions.hub.card import model_card
from react_pipeline.extensions.hub.exported_folder import (
    write_calibration,
    write_head,
    write_model,
    write_record,
)
from react_pipeline.extensions.hub.onnx_model import FORMATS
from react_pipeline.lineage import fresh
from react_pipeline.project import Project
from react_pipeline.promotion import HistoryEntry, champion_decision
from react_pipeline.stage import method_key
from react_pipeline.store import (
    Artifact,
    InputError,
    ReactError,
    StoreWriteError,
    fsync,
    fsync_tree,
)
from react_pipeline.use import CHAMPION

GATED_FILE = "gated_blocks.py"
_QUERY = re.compile(r"\?\S*")
_REFUSALS = {
    401: "the Hub refuses the token; set HF_TOKEN, or log in with `hf auth login`",
    403: "the token may not write there; set HF_TOKEN to one that may, or take another OWNER",
    409: "exists; add --overwrite to replace what it holds",
}


def export(
    project: Project,
    slug: str,
    method: str,
    directory: Path | str,
    *,
    formats: Collection[str] = (),
    licence: str = "other",
) -> Path:
    """Write the customized checkpoint of a domain and method as a folder with a model card; return
    its absolute path.

    It is written under a hidden name beside its place, and appears when it is complete.

    Args:
        method: Its present checkpoint. `champion`: the champion's, also when it is an older one of
            its method, made from other inputs, or of a domain whose file is gone.
        directory: The folder to make; empty or absent.
        formats: Names of `FORMATS`, which are written beside open_clip's form.
        licence: Of the model, by its identifier on the Hub.

    Raises:
        MissingArtifact: If the method was not customized yet, or the champion's files are gone.
        StaleArtifact: If it was made from other inputs than today's.
        InputError: If the folder is not empty, the base is champion, or a format is unknown.
        StoreWriteError: If the disk refuses a write; the folder is then as it was.
    """
    if unknown := sorted({*formats} - FORMATS.keys()):
        raise InputError(f"--format {unknown[0]!r}: choose from {', '.join(FORMATS)}")
    checkpoint, decision = _checkpoint(project, slug, method)
    target = Path(directory).expanduser().absolute()
    _refuse_occupied(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as scratch:
            folder = Path(scratch) / "new"
            folder.mkdir()  # with the usual permissions, unlike the temporary one
            form = write_model(project, checkpoint, folder)
            write_head(project, checkpoint, folder)
            write_calibration(project, checkpoint, folder)
            if form.gated and form.plain:
                shutil.copyfile(inspect.getfile(GatedBlock), folder / GATED_FILE)
            # In the order of the table: 8 bits are made from the graph in full precision.
            chosen = [name for name in FORMATS if name in formats]
            facts = {name: FORMATS[name](project, checkpoint, folder) for name in chosen}
            card = model_card(project, checkpoint, form, facts, licence, decision)
            (folder / "README.md").write_text(card, encoding="utf-8")
            promotion = {"promotion": decision.promotion} if decision else {}
            write_record(folder, checkpoint, **promotion, formats=facts)
            fsync_tree(folder)
            folder.rename(target)  # which a folder that is not empty refuses
            fsync(target.parent)
    except OSError as error:
        raise StoreWriteError(
            f"{error.filename or target}: {error.strerror or error}; nothing was exported to "
            f"{target}. Free space or choose another folder, and export again"
        ) from error
    return target


def _refuse_occupied(target: Path) -> None:
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise InputError(f"{target}: already exists and is not a folder; choose another place")
    if target.exists() and any(target.iterdir()):
        raise InputError(f"{target}: already exists and is not empty; choose another folder")


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


def create_repository(name: str, *, overwrite: bool) -> None:
    """Create a private repository for a model, or with `overwrite` take one that exists.

    Raises:
        InputError: If the name is none, the token may not write there, or it exists.
        ReactError: If the Hub cannot be reached.
    """
    with _readable_errors(name, "nothing was sent"):
        HfApi().create_repo(name, private=True, exist_ok=overwrite)


def upload(folder: Path, name: str) -> str:
    """Make a repository hold what a folder holds; return the address of the commit.

    Raises:
        InputError: If the token may not write there.
        ReactError: If the upload fails.
    """
    with _readable_errors(name, f"{folder} is written; push again with --overwrite"):
        commit = HfApi().upload_folder(
            repo_id=name,
            folder_path=folder,
            delete_patterns="*",
            commit_message="Export of react_pipeline",
        )
    return str(commit.commit_url)


@contextmanager
def _readable_errors(name: str, state: str) -> Iterator[None]:
    try:
        yield
    except HFValidationError as error:
        raise InputError(f"--push {name!r}: write OWNER/NAME ({error})") from error
    except Exception as error:  # of two HTTP clients, over the versions of huggingface_hub
        status = getattr(getattr(error, "response", None), "status_code", 0)
        if refusal := _REFUSALS.get(status):
            raise InputError(f"--push {name}: {refusal} ({status}); {state}") from error
        # The address of an upload is signed.
        text = _QUERY.sub("", " ".join(f"{error} {error.__cause__ or ''}".split()))[:300]
        raise ReactError(f"--push {name}: {constants.ENDPOINT}: {text}; {state}") from error
