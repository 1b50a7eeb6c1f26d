"""The registry: MLflow's model `react-<domain>` with its champion and challenger.

Belongs here: aliases, tags and descriptions of versions, the queue of verdicts that are not applied yet, and what a
person changed by hand. Does not belong here: deciding (`promotion`), registering versions (`tracking`).

The store says who is champion; the registry mirrors it. A verdict is queued in `<store>/.pending_tracking/verdicts` and
leaves the queue when the registry shows it, so a server that is down delays it and nothing is written twice. A tag of
the registered model remembers where this module last put the alias `champion`. If it is elsewhere, a person moved it:
the alias is left alone, and the next decision takes the person's choice over (`hand_edit`). Only a person's command
overrules it. The alias `challenger` belongs to the pipeline and is always set.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from react_pipeline.pipeline import method_key
from react_pipeline.project import Project
from react_pipeline.promotion import BASE, Contender, RegistryEdit, Verdict, standing
from react_pipeline.store import Artifact, ReactError, locked
from react_pipeline.tracking.log import Tracking
from react_pipeline.tracking.queue import PENDING, Queue
from react_pipeline.tracking.runs import Runs
from react_pipeline.tracking.versions import (
    NONE,
    Version,
    alias_of,
    describe,
    find_model,
    find_version,
    list_versions,
    model_name,
    named,
    retire,
    set_alias,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion, RegisteredModel

logger = logging.getLogger(__name__)

CHAMPION, CHALLENGER = "champion", "challenger"
CHAMPION_TAG = "react.champion"
"""Tag of the registered model: the version that this module last made champion, or `NONE`."""

VERDICT_TAG = "react.promotion"
"""Tag of the registered model: fingerprint of the verdict that its aliases show."""


@dataclass(frozen=True)
class Delivery:
    """Result of a pass over the queue: how many verdicts were `applied`, how many wait, and `notes` for a person."""

    applied: int = 0
    waits: int = 0
    notes: tuple[str, ...] = ()


class Registry:
    """The registered models of one project, at one tracking URI."""

    def __init__(self, uri: str, experiment: str) -> None:
        """Nothing is contacted before the first call."""
        self.uri = uri
        self._experiment = experiment
        self._runs = Runs(uri, experiment)

    @classmethod
    def of(cls, project: Project, uri: str | None = None) -> Registry:
        """The registry as the project's configuration says, or at another `uri`."""
        return cls(uri or project.config.tracking_uri or "", project.config.project)

    def apply(self, project: Project, artifact: Artifact, *, patient: bool = False) -> Delivery:
        """Apply a verdict to the registry, after those that wait; never raises, safe to repeat."""
        with locked(_lock_of(project)):
            _put(self._queue(project), artifact)
        return self.apply_pending(project, patient=patient)

    def apply_pending(self, project: Project, *, patient: bool = False) -> Delivery:
        """Apply every verdict that waits to the registry, in order; never raises.

        Args:
            project: The pipeline whose queue it is.
            patient: Try even if the server failed within the last minute.
        """
        queue = self._queue(project)
        if not queue.entries():
            return Delivery()
        if queue.rests(patient=patient):
            return Delivery(waits=len(queue.entries()))
        if patient:
            Tracking(self.uri, self._experiment).log_pending(project, patient=True)
        applied = 0
        notes: list[str] = []
        failed: set[str] = set()
        with locked(_lock_of(project)):
            try:
                client = self._runs.connect()
                for entry in queue.entries():
                    slug = _slug_of(entry)
                    # A later verdict of a domain never overtakes one that could not be applied.
                    if slug in failed:
                        continue
                    try:
                        notes += self._apply(client, project, json.loads(entry.read_text(encoding="utf-8")))
                    except Exception as error:  # whatever MLflow, its database or the network raise
                        if failed:
                            raise
                        failed.add(slug)
                        self._give_up(queue, error)
                        continue
                    entry.unlink()
                    applied += 1
            except Exception as error:
                self._give_up(queue, error)
        for note in notes:
            logger.warning("%s", note)
        return Delivery(applied, len(queue.entries()), tuple(notes))

    def hand_edit(self, project: Project, slug: str) -> RegistryEdit | None:
        """What a person did to the alias `champion` since it was last written; None: nothing, or no answer.

        While verdicts of the domain wait to be applied, there is no answer.
        """
        queue = self._queue(project)
        if any(_slug_of(entry) == slug for entry in queue.entries()) or queue.rests():
            return None
        try:
            client = self._runs.connect()
            model = find_model(client, slug)
            if model is None:
                return None
            there = alias_of(model, CHAMPION)
            if there == model.tags.get(CHAMPION_TAG, NONE):
                return None
            if there == NONE:
                return RegistryEdit(None)
            tags = client.get_model_version(model.name, there).tags
            return RegistryEdit(there, tags.get("method", ""), tags.get("fingerprint", ""))
        except Exception as error:
            self._give_up(queue, error)
            return None

    def versions(self, slug: str) -> list[Version]:
        """The versions of a domain's model, oldest first.

        Raises:
            Exception: Whatever MLflow raises when it cannot be reached.
        """
        return list_versions(self._runs.connect(), slug)

    def count_pending(self, project: Project) -> int:
        """How many verdicts wait to be applied."""
        return len(self._queue(project).entries())

    def _queue(self, project: Project) -> Queue:
        return Queue(self.uri, project.store.root / PENDING / "verdicts")

    def _give_up(self, queue: Queue, error: Exception) -> None:
        self._runs.forget()
        queue.rest(error)

    def _apply(self, client: MlflowClient, project: Project, entry: dict[str, Any]) -> list[str]:
        """Write one verdict; returns what a person should read.

        One that another verdict has followed is written on its versions only: the aliases show the last.
        """
        verdict, promotion, decided = Verdict.model_validate(entry["verdict"]), entry["fingerprint"], entry["decided"]
        notes: list[str] = []
        champion = self._version(client, project, verdict.domain, verdict.champion, notes)
        rival = verdict.challenger
        if rival is None or rival.is_same(verdict.champion):
            challenger = None
        else:
            challenger = self._version(client, project, verdict.domain, rival, notes)
        moved = not verdict.champion_before.is_same(verdict.champion)
        if moved and verdict.champion_before.method != BASE:
            dethroned = find_version(client, verdict.domain, verdict.champion_before.checkpoint)
            if dethroned is not None:
                retire(client, dethroned, verdict, promotion, decided)
        if champion is not None and (moved or verdict.decision == "promoted"):
            describe(client, champion, verdict.champion, verdict, promotion, decided)
        elif challenger is not None and rival is not None:
            describe(client, challenger, rival, verdict, promotion, decided)
        model = find_model(client, verdict.domain)
        last = standing(project, verdict.domain)[1]
        if model is None or last is None or last.fingerprint != promotion:
            return notes
        if champion is not None or verdict.champion.method == BASE:
            self._move_champion(client, model, verdict, NONE if champion is None else str(champion.version), notes)
        set_alias(client, model, CHALLENGER, NONE if challenger is None else str(challenger.version))
        client.set_registered_model_tag(model.name, VERDICT_TAG, promotion)
        return notes

    def _move_champion(
        self, client: MlflowClient, model: RegisteredModel, verdict: Verdict, wanted: str, notes: list[str]
    ) -> None:
        there = alias_of(model, CHAMPION)
        if there not in (model.tags.get(CHAMPION_TAG, NONE), wanted):
            moved = f"{model.name}: a person had moved the alias `champion` to {named(there)}"
            if verdict.by != "person":
                notes.append(
                    f"{moved}, and this verdict wants {named(wanted)}; it stays where it is until the next decision "
                    f"takes it over, or `react-pipeline models promote {verdict.domain} METHOD` overrules it"
                )
                return
            notes.append(f"{moved}; the command of a person moved it to {named(wanted)}")
        set_alias(client, model, CHAMPION, wanted)
        client.set_registered_model_tag(model.name, CHAMPION_TAG, wanted)

    def _version(
        self, client: MlflowClient, project: Project, slug: str, contender: Contender, notes: list[str]
    ) -> ModelVersion | None:
        """The version of a contender, registered now if the log of its checkpoint still waited; None for the base."""
        if contender.method == BASE:
            return None
        if found := find_version(client, slug, contender.checkpoint):
            return found
        what = f"{contender.method} {contender.checkpoint}"
        try:
            artifact = project.store.open(
                "customized_checkpoint", method_key(slug, contender.method), contender.checkpoint
            )
        except ReactError as error:
            notes.append(f"{model_name(slug)}: {what} is in no version, and {error}")
            return None
        if Tracking(self.uri, self._experiment).log_artifact(project, artifact) is None:
            raise ConnectionError(f"{what} of {slug} is not logged yet, so it has no version")
        if found := find_version(client, slug, contender.checkpoint):
            return found
        notes.append(f"{model_name(slug)}: no version is of {what}, though it was logged: a person deleted it")
        return None


def _put(queue: Queue, artifact: Artifact) -> None:
    """Put a verdict at the end of the queue, once. The entry holds all that it says: the store may be pruned."""
    waiting = queue.entries()
    if any(entry.name.endswith(f"--{artifact.fingerprint}.json") for entry in waiting):
        return
    number = 1 + max((int(entry.name.split("--")[0]) for entry in waiting), default=0)
    verdict = Verdict.read(artifact).model_dump(mode="json", exclude={"history"})
    about = {"fingerprint": artifact.fingerprint, "decided": str(artifact.manifest["created"])}
    queue.put(f"{number:08d}--{artifact.key}--{artifact.fingerprint}", {**about, "verdict": verdict})


def _slug_of(entry: Path) -> str:
    # A slug may hold `--`, a number and a fingerprint hold none.
    return entry.stem.split("--", 1)[1].rsplit("--", 1)[0]


def _lock_of(project: Project) -> Path:
    return project.store.root / ".locks" / "registry.lock"
