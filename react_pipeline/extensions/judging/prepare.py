"""Judging: two models classify the same pictures, and those on which they disagree become a log to
be judged.

Belongs here: which models, which pictures, and the log of both. Does not belong here: the page
(`page`), what follows from answers (`log`).
"""

import hashlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from random import SystemRandom
from typing import Any

from react_pipeline.evaluation import HEADLINE_METHOD
from react_pipeline.extensions.judging.judgements import (
    JUDGEMENTS,
    measure_of,
    model_of,
    present_model,
)
from react_pipeline.extensions.judging.log import Disagreement, Header, Side, create_log
from react_pipeline.extensions.predict import Picture, find_pictures, identity_of
from react_pipeline.project import Project
from react_pipeline.promotion import BASE_METHOD, standing
from react_pipeline.settings import trained_methods
from react_pipeline.store import InputError, canonical_json
from react_pipeline.use import CHAMPION


@dataclass(frozen=True)
class Prepared:
    """A log to be judged, and its pictures by name."""

    log: Path
    pictures: dict[str, Picture]


def prepare_log(
    project: Project,
    slug: str,
    source: str,
    candidate: str | None,
    against: str,
    report: Callable[[str], None],
) -> Prepared:
    """The log of two models on pictures: the one that was begun already, or a new one, for which
    both classify them.

    Args:
        source: The pictures: see `find_pictures`.
        candidate: A method; None: the headline method, or the first trained one.
        against: `base`, `champion` or a method, a control too.
        report: Called with a line on what happens.

    Raises:
        InputError: If there are no pictures, or candidate and other are the same model.
        MissingArtifact: If a model was never built.
        StaleArtifact: If a model was built from other inputs than today's.
    """
    measure = measure_of(project, slug)
    one = present_model(project, slug, candidate or _default_candidate(project))
    other = _against(project, slug, against)
    if one == other:
        raise InputError(
            f"{slug}: {one.method} is compared with itself; name another --candidate or --against"
        )
    path = Path(source).expanduser()
    source = str(path.resolve()) if path.exists() else source
    pictures, refused = find_pictures(source, storage=project.config.corpus.access()[0])
    identity = [one.checkpoint, other.checkpoint, measure, identity_of(pictures)]
    digest = hashlib.sha256(canonical_json(identity).encode()).hexdigest()[:12]
    folder = project.path.parent / JUDGEMENTS / slug
    log = folder / f"{one.method}--{other.method}--{digest}.jsonl"
    prepared = Prepared(log, {picture.name: picture for picture in pictures})
    if log.exists():
        report(f"{log}: resumed")
        return prepared
    work = folder / f".work-{digest}"
    classes = []
    for side in (one, other):
        report(f"{side.method}: classifying {len(pictures):,} pictures ...")
        classes.append(dict(_classify(project, slug, side, pictures, work / side.checkpoint)))
    header = _header(slug, measure, (one, other), source, classes, len(pictures) + len(refused))
    create_log(log, header)
    shutil.rmtree(work, ignore_errors=True)
    report(
        f"the models disagree on {len(header.pictures):,} of {header.images:,} pictures; "
        f"{header.unreadable} cannot be read"
    )
    return prepared


def _header(
    slug: str,
    measure: dict[str, Any],
    sides: tuple[Side, Side],
    source: str,
    classes: Sequence[Mapping[str, int]],
    total: int,
) -> Header:
    """The head of a new log, by the class ids that both models give to the readable pictures."""
    names = [name for name in classes[0] if name in classes[1]]
    if not names:
        raise InputError(f"{source}: none of its {total:,} pictures can be read")
    return Header(
        domain=slug,
        measure=measure,
        candidate=sides[0],
        against=sides[1],
        source=source,
        images=len(names),
        unreadable=total - len(names),
        pictures=_disagreements(names, *classes),
        created=datetime.now(UTC).isoformat(timespec="milliseconds"),
    )


def _disagreements(
    names: Sequence[str], candidate: Mapping[str, int], against: Mapping[str, int]
) -> tuple[Disagreement, ...]:
    """The pictures on which two models disagree, by the class ids of both, in a random order."""
    disagreements = [
        Disagreement(path=name, candidate=candidate[name], against=against[name])
        for name in names
        if candidate[name] != against[name]
    ]
    # The bounds need the order to be random, and unknown beforehand.
    SystemRandom().shuffle(disagreements)
    return tuple(disagreements)


def _default_candidate(project: Project) -> str:
    trained = trained_methods(project.config.all_methods)
    methods = [name for name in project.config.methods if name in trained]
    return HEADLINE_METHOD if HEADLINE_METHOD in methods or not methods else methods[0]


def _against(project: Project, slug: str, against: str) -> Side:
    if against == CHAMPION:
        champion = standing(project, slug)[0].champion
        if champion.method != BASE_METHOD:
            side = Side(method=champion.method, checkpoint=champion.checkpoint)
            model_of(project, slug, side)
            return side
        against = BASE_METHOD
    if against not in (methods := project.config.all_methods):
        raise InputError(f"--against {against!r}: choose from {CHAMPION}, {', '.join(methods)}")
    return present_model(project, slug, against)


def _classify(
    project: Project, slug: str, side: Side, pictures: Sequence[Picture], folder: Path
) -> Iterator[tuple[str, int]]:
    """The class id that a model gives each picture, by its name; those that cannot be read are left
    out.

    What was computed is kept in `folder`, so that a run that was killed resumes.
    """
    import torch

    from react_pipeline.embedding import LONG_RUN, Encoder
    from react_pipeline.extensions.predict import encode_pictures
    from react_pipeline.use import load_model

    config = project.config
    checkpoint = model_of(project, slug, side)
    clip, head = load_model(project, checkpoint, project.domain(slug))
    parts = encode_pictures(
        Encoder(clip, config.embedding.precision, long_run=len(pictures) >= LONG_RUN),
        pictures,
        folder,
        batch_size=config.embedding.batch_size,
        workers=config.embedding.worker_count,
        max_pixels=config.corpus.max_pixels,
    )
    for part in parts:
        ids = head.scores(torch.from_numpy(part.vectors)).argmax(dim=1).tolist()
        yield from zip(part.names, ids, strict=True)
