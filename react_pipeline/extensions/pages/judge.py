"""The page of judging: one picture at a time, two class names in random places.

The page does not show which model said what: names change places at random, and until the answer is
clear it shows no bound, which would move after a click and give away whose name was clicked.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, StrictInt

from react_pipeline.extensions.pages.server import Board, Button, Item, View, open_lines
from react_pipeline.extensions.pages.session import NEITHER, UNSURE, Answer, Entry, Session
from react_pipeline.extensions.predict import Picture
from react_pipeline.store import InputError


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
            notice=f"The answer is clear, you can stop. {session}" if session.is_clear else "",
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
