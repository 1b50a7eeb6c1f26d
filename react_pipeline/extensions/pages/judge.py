"""The page of judging: one picture at a time, two class names in random places.

The page does not show which model said what: names change places at random, and until the answer is
clear it shows no bound, which would move after a click and give away whose name was clicked.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, StrictInt

from react_pipeline.extensions.pages.server import Board, Button, Item, View
from react_pipeline.extensions.pages.session import NEITHER, UNSURE, Answer, JudgementLog
from react_pipeline.extensions.predict import Picture
from react_pipeline.store import InputError


class _Answer(BaseModel):
    """The answer to a picture by its number; None takes it back."""

    model_config = ConfigDict(extra="forbid")

    picture: StrictInt
    choice: Answer | None


class JudgeBoard(Board):
    """The pictures of a log that is held open."""

    hint = "Which name is right? Every answer is saved at once; close the page whenever you like."
    single = True

    def __init__(self, log: JudgementLog, pictures: Mapping[str, Picture], max_pixels: int) -> None:
        """Show the pictures of `log`, by name in `pictures`."""
        self._log = log
        self._pictures = pictures
        self.max_pixels = max_pixels
        self.title = f"Judging: {log.session.header.domain}"

    def view(self, asked: Mapping[str, Any]) -> View:
        """Show the next picture, and the result once it is clear."""
        session = self._log.session
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
        return self._pictures[self._log.session.header.pictures[number].path].read()

    def answer(self, answer: Any) -> bool:
        """Record the answer to the next picture."""
        given = _Answer.model_validate(answer)
        pictures = self._log.session.header.pictures
        if not 0 <= given.picture < len(pictures):
            return False
        if given.choice not in (*self._choices(given.picture), NEITHER, UNSURE, None):
            raise InputError("choice: none of the two classes of this picture")
        return self._log.answer(given.picture, given.choice)

    def _choices(self, number: int) -> tuple[int, int]:
        """Return both class ids in the order of the buttons: random, and the same in every tab and
        after a restart.
        """
        session = self._log.session
        one = session.header.pictures[number]
        identity = f"{session.path.stem} {session.header.created} {number}"
        first = hashlib.sha256(identity.encode()).digest()[0] % 2
        return (one.candidate, one.against) if first else (one.against, one.candidate)
