"""The page of judging: one picture at a time, two class names in random places, on loopback.

Belongs here: what the page asks and gets. Does not belong here: the log (`log`), who may ask
(`extensions.ui`).

The page does not show which model said what: names change places at random, and until the answer is
clear the page shows how many clicks are likely left and no bound, which would move after a click
and give away whose name was clicked.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from react_pipeline.corpus import BadImage, decode_image
from react_pipeline.extensions.judging.log import (
    FORECAST_STEP,
    NEITHER,
    UNSURE,
    Answer,
    JudgementLog,
    Session,
    describe,
)
from react_pipeline.extensions.predict import Picture
from react_pipeline.extensions.ui import guard
from react_pipeline.pages import render
from react_pipeline.store import InputError, ReactError, StoreWriteError

if TYPE_CHECKING:
    from flask import Flask

SHOWN_PIXELS = 900
"""The longer side of a picture on the page."""


def create_page(log: JudgementLog, pictures: Mapping[str, Picture], max_pixels: int) -> Flask:
    """The WSGI application: `/` the page, `/state`, `/picture/N`, and `/answer`, which is posted
    to.

    Each answer is in the log, which is held open, before the page hears of it.
    """
    from flask import Flask, Response, abort, request, send_from_directory

    app = Flask(__name__, static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = 4096
    shown = log.session.header.pictures

    @app.get("/")
    def page() -> str:
        domain = log.session.header.domain
        return render(
            "extensions/judging",
            "judge.html",
            page_title=f"Judging: {domain}",
            main_class="judging",
            domain=domain,
        )

    @app.get("/judge.js")
    def script() -> Response:
        return send_from_directory(Path(__file__).with_name("templates"), "judge.js")

    @app.get("/state")
    def state() -> dict[str, Any]:
        return state_of(log)

    @app.get("/picture/<int:number>")
    def picture(number: int) -> Response:
        if not number < len(shown):
            abort(404)
        try:
            data = _jpeg(pictures[shown[number].path], max_pixels)
        except (KeyError, BadImage, ReactError):
            abort(404, "the picture cannot be read any more")
        # The same number is another picture in another log at the same port.
        return Response(data, mimetype="image/jpeg", headers={"Cache-Control": "no-store"})

    @app.post("/answer")
    def answer() -> tuple[dict[str, Any], int]:
        try:
            recorded = _record_answer(log, request.get_json())
        except InputError as error:
            abort(400, str(error))
        except StoreWriteError as error:
            abort(507, str(error))
        # 409: another tab was faster; the state says what is next.
        return state_of(log), 200 if recorded else 409

    guard(app)
    return app


def _jpeg(picture: Picture, max_pixels: int) -> bytes:
    image = decode_image(picture.read(), max_pixels)
    image.thumbnail((SHOWN_PIXELS, SHOWN_PIXELS))
    image.save(data := io.BytesIO(), "JPEG", quality=92)
    return data.getvalue()


def _record_answer(log: JudgementLog, body: Any) -> bool:
    """Write a posted answer; returns whether it was the next one.

    Raises:
        InputError: If it is no answer.
        StoreWriteError: If the disk refuses it.
    """
    fields = body if isinstance(body, dict) else {"choice": ""}
    number = fields.get("picture")
    choice = fields.get("choice")
    if not isinstance(number, int) or choice not in (0, 1, NEITHER, UNSURE, None):
        raise InputError(
            "an answer has a `picture` and a `choice`: 0, 1, neither, unsure, or null to take one "
            "back"
        )
    if isinstance(choice, int):
        is_there = 0 <= number < len(log.session.header.pictures)
        choice = _choices(log, number)[choice] if is_there else UNSURE
    return log.answer(number, cast("Answer | None", choice))


def state_of(log: JudgementLog) -> dict[str, Any]:
    """What the page shows now."""
    session = log.session
    header = session.header
    position = len(session.entries)
    clear = session.difference().clear
    names = header.measure["classes"]
    choices = []
    if position < len(header.pictures):
        choices = [names[class_id] for class_id in _choices(log, position)]
    return {
        "picture": position,
        "total": len(header.pictures),
        "choices": choices,
        "left": "" if clear else _left(session),
        "clear": clear,
        "result": describe(session) if clear else "",
    }


def _left(session: Session) -> str:
    clicks = session.clicks_left
    total = len(session.header.pictures)
    if clicks is None:
        return f"a forecast follows after {FORECAST_STEP} answers"
    if len(session.entries) + clicks >= total:
        return (
            f"no clear answer is likely before all {total:,} are judged, if the difference stays "
            "as it is"
        )
    return f"about {max(clicks, 1):,} more until a clear answer, if the difference stays as it is"


def _choices(log: JudgementLog, number: int) -> tuple[int, int]:
    """Both class ids in the order of the buttons: random, and the same in every tab and after a
    restart.
    """
    picture = log.session.header.pictures[number]
    identity = f"{log.session.path.stem} {log.session.header.created} {number}"
    first = hashlib.sha256(identity.encode()).digest()[0] % 2
    return (picture.candidate, picture.against) if first else (picture.against, picture.candidate)
