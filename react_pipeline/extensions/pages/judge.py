"""Judging: the pictures on which two models disagree become a log, and a page asks about them, one
at a time, with two class names in random places.

The page does not show which model said what: names change places at random, and until the answer is
clear it shows no bound, which would move after a click and give away whose name was clicked. Does
not belong here: what follows from answers (`session`).
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from random import SystemRandom
from typing import Any

from pydantic import BaseModel, ConfigDict, StrictInt

from react_pipeline.evaluation import HEADLINE_METHOD
from react_pipeline.extensions.pages.judgements import JUDGEMENTS, shared_prompts, side_of
from react_pipeline.extensions.pages.server import Board, Button, Item, View, open_lines
from react_pipeline.extensions.pages.session import (
    NEITHER,
    UNSURE,
    Answer,
    Disagreement,
    Entry,
    Header,
    Session,
    Side,
    create_log,
)
from react_pipeline.extensions.predict import Picture, find_pictures, hash_pictures
from react_pipeline.project import Project
from react_pipeline.settings import trained_methods
from react_pipeline.store import Artifact, InputError, canonical_json
from react_pipeline.use import chosen_checkpoint


def prepare_log(
    project: Project,
    slug: str,
    source: str,
    candidate: str | None,
    against: str,
    report: Callable[[str], None],
) -> tuple[Path, dict[str, Picture]]:
    """Return the log of two models on pictures, and the pictures by name: the log that was begun
    already, or a new one, for which both models classify them.

    Args:
        source: The pictures: see `find_pictures`.
        candidate: A method; None: the headline method, or the first trained one.
        against: `base`, `champion` or a method, a control too.
        report: Called with a line on what happens.

    Raises:
        InputError: If there are no pictures or no such model, or candidate and other are the same.
        MissingArtifact: If a model was never built.
        StaleArtifact: If a model was built from other inputs than today's.
    """
    trained = trained_methods(project.config.all_methods)
    names = [name for name in project.config.methods if name in trained]
    first = HEADLINE_METHOD if HEADLINE_METHOD in names else next(iter(names), HEADLINE_METHOD)
    named = candidate or first, against
    models = [chosen_checkpoint(project, slug, name)[0] for name in named]
    one, other = map(side_of, models)
    if one == other:
        raise InputError(
            f"{slug}: {one.method} is compared with itself; name another --candidate or --against"
        )
    path = Path(source).expanduser()
    source = str(path.resolve()) if path.exists() else source
    pictures, refused = find_pictures(source)
    stamp = hash_pictures(pictures)
    identity = [one.checkpoint, other.checkpoint, shared_prompts(project, slug), stamp]
    digest = hashlib.sha256(canonical_json(identity).encode()).hexdigest()[:12]
    folder = project.path.parent / JUDGEMENTS / slug
    log = folder / f"{one.method}--{other.method}--{digest}.jsonl"
    if log.exists():
        report(f"{log}: resumed")
    else:
        report(f"two models classify {len(pictures):,} pictures ...")
        work = folder / f".work-{stamp[:12]}"  # kept until the log is written, after a kill too
        answers = [dict(_classify(project, slug, model, pictures, work)) for model in models]
        total = len(pictures) + len(refused)
        header = _compare(project, slug, (one, other), source, total, answers)
        create_log(log, header)
        shutil.rmtree(work, ignore_errors=True)
        report(
            f"the models disagree on {len(header.pictures):,} of {header.images:,} pictures; "
            f"{header.unreadable} cannot be read"
        )
    return log, {picture.name: picture for picture in pictures}


def _compare(
    project: Project,
    slug: str,
    sides: tuple[Side, Side],
    source: str,
    total: int,
    answers: Sequence[Mapping[str, int]],
) -> Header:
    """Return the head of the log of two models, from the class ids that each model gives to the
    readable ones of `total` pictures.
    """
    ids, other_ids = answers
    readable = [name for name in ids if name in other_ids]
    if not readable:
        raise InputError(f"{source}: none of its {total:,} pictures can be read")
    disagreements = [
        Disagreement(path=name, candidate=ids[name], against=other_ids[name])
        for name in readable
        if ids[name] != other_ids[name]
    ]
    # The bounds need the order to be random, and unknown beforehand.
    SystemRandom().shuffle(disagreements)
    return Header(
        domain=slug,
        measure=shared_prompts(project, slug),
        candidate=sides[0],
        against=sides[1],
        source=source,
        images=len(readable),
        unreadable=total - len(readable),
        pictures=tuple(disagreements),
        created=datetime.now(UTC).isoformat(timespec="milliseconds"),
    )


def _classify(
    project: Project, slug: str, model: Artifact, pictures: Sequence[Picture], work: Path
) -> Iterator[tuple[str, int]]:
    """Yield the class id that a model gives each picture, by its name; those that cannot be read
    are left out.
    """
    import torch

    from react_pipeline.extensions.predict import Options, encode_pictures
    from react_pipeline.use import load_model

    config = project.config
    clip, head = load_model(project, model, project.domain(slug))
    options = Options(workers=config.embedding.worker_count, max_pixels=config.corpus.max_pixels)
    folder = work / model.fingerprint
    for part in encode_pictures(clip, pictures, folder, config.embedding.precision, options):
        ids = head.scores(torch.from_numpy(part.vectors)).argmax(dim=1).tolist()
        yield from zip(part.names, ids, strict=True)


class _Answer(BaseModel):
    """The answer to a picture by its number; None takes it back."""

    model_config = ConfigDict(extra="forbid")

    picture: StrictInt
    choice: Answer | None


class JudgeBoard(Board):
    """The pictures of a log that is held open; `session` is what was answered so far."""

    hint = "Which name is right? Every answer is saved at once; close the page whenever you like."
    single = True

    def __init__(
        self, session: Session, person: str, write: Callable[[str], bytes], max_pixels: int
    ) -> None:
        """Use `open_judge`."""
        self.session = session
        self.pictures: Mapping[str, Picture] = {}
        self.max_pixels = max_pixels
        self.title = f"Judging: {session.header.domain}"
        self._person = person
        self._write = write

    def view(self, asked: Mapping[str, Any]) -> View:
        """Show the next picture, and the result once it is clear."""
        session = self.session
        number, header = len(session.entries), session.header
        buttons = []
        if number < len(header.pictures):
            both = self._choices(number)
            names = [*(header.measure["classes"][one] for one in both), "Neither", "Unsure"]
            buttons = [
                Button(name, key, answer={"picture": number, "choice": choice})
                for key, name, choice in zip("12nu", names, (*both, NEITHER, UNSURE), strict=True)
            ]
        if number:
            back = {"picture": number - 1, "choice": None}
            buttons.append(Button("Take back", "z", answer=back))
        return View(
            f"{number} of {len(header.pictures)} judged",
            (Item(f"picture/{number}"),) if number < len(header.pictures) else (),
            tuple(buttons),
            notice=self._notice(),
        )

    def _notice(self) -> str:
        session = self.session
        if len(session.entries) < len(session.header.pictures):
            return f"The answer is clear, you can stop. {session}" if session.is_clear else ""
        p_value = session.test().p_value
        return (
            f"All are judged. {session}. The interval covers these pictures alone; the test for a "
            f"gain on pictures like these has p = {p_value:.2g}, and promotion requires both"
        )

    def picture(self, number: int) -> bytes:
        """Return the image file of a picture of the log."""
        return self.pictures[self.session.header.pictures[number].path].read()

    def answer(self, answer: Any) -> bool:
        """Record the answer to the next picture, or that the last one is taken back."""
        given = _Answer.model_validate(answer)
        if not self.session.is_next(given.picture, given.choice):
            return False
        if given.choice not in (*self._choices(given.picture), NEITHER, UNSURE, None):
            raise InputError("choice: none of the two classes of this picture")
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        entry = Entry(picture=given.picture, answer=given.choice, judge=self._person, time=now)
        self.session = self.session.with_entry(entry, self._write(entry.model_dump_json()))
        return True

    def _choices(self, number: int) -> tuple[int, int]:
        """Return both class ids in the order of the buttons: random, and the same in every tab and
        after a restart.
        """
        session = self.session
        one = session.header.pictures[number]
        identity = f"{session.path.stem} {session.header.created} {number}"
        first = hashlib.sha256(identity.encode()).digest()[0] % 2
        return (one.candidate, one.against) if first else (one.against, one.candidate)


@contextmanager
def open_judge(path: Path, person: str, max_pixels: int) -> Iterator[JudgeBoard]:
    """Hold a log open for answers.

    Raises:
        InputError: If another process has it open.
        CorruptArtifact: If it cannot be read.
    """
    with open_lines(path) as write:
        yield JudgeBoard(Session.read(path), person, write, max_pixels)
