"""The one server of pictures with buttons, on loopback, and the files of JSON lines that clicks are
appended to.

A board says what the page shows and what a click means; the page only draws it. Belongs here: what
every board has in common. Does not belong here: any board (`search`, `review`, `judge`), who may
ask (`extensions.ui`).
"""

from __future__ import annotations

import io
import json
import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from react_pipeline.corpus import BadImage, decode_image
from react_pipeline.extensions.ui import guard
from react_pipeline.pages import one_line, render
from react_pipeline.store import InputError, ReactError, StoreWriteError, append, lock

if TYPE_CHECKING:
    from flask import Flask

PER_PAGE = 60
"""Pictures of a grid that are shown at once."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Button:
    """Something to click: it asks for another view, or gives an answer."""

    text: str
    key: str = ""
    ask: Mapping[str, Any] | None = None
    answer: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Item:
    """A picture, by its address, with what belongs to it; a click on it gives `answer`."""

    picture: str
    caption: str = ""
    note: str = ""
    answer: Mapping[str, Any] | None = None
    buttons: tuple[Button, ...] = ()


@dataclass(frozen=True)
class Menu:
    """A choice that is part of what is asked; options are values and texts."""

    name: str
    label: str
    value: str
    options: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class View:
    """What a page shows now; `notice` stands out."""

    status: str
    items: tuple[Item, ...]
    buttons: tuple[Button, ...] = ()
    menus: tuple[Menu, ...] = ()
    notice: str = ""


class Asked(BaseModel):
    """A request for a page of a grid; `page` counts from 0."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    page: int = Field(default=0, ge=0, lt=1_000)

    def shown(self, count: int) -> tuple[slice, tuple[Button, ...]]:
        """Return which of `count` items this page shows, and the button of the next one."""
        first = PER_PAGE * self.page
        more = Button("Next page", "n", ask={"page": self.page + 1})
        return slice(first, first + PER_PAGE), (more,) if count > first + PER_PAGE else ()


class Board(ABC):
    """What one command shows.

    Attributes:
        searches: Whether the page asks for a text or a picture.
        single: Whether it shows one large picture instead of a grid.
        max_bytes: Maximum size of a request.
        pictures_from: Where the browser may load pictures from, beside this server.
    """

    title: str
    hint: str
    max_pixels: int
    searches = False
    single = False
    max_bytes = 4096
    pictures_from = ""

    @abstractmethod
    def view(self, asked: Mapping[str, Any]) -> View:
        """Return what to show; `asked` comes from a browser's address, menus and buttons.

        Raises:
            ValueError, InputError: If it means nothing.
        """

    @abstractmethod
    def picture(self, number: int) -> bytes:
        """Return the image file at the address `picture/<number>`.

        Raises:
            LookupError: If there is none.
        """

    def answer(self, answer: Any) -> bool:
        """Record an answer; false if another tab was faster.

        Raises:
            ValueError, InputError: If it is none.
            StoreWriteError: If the disk refuses it.
        """
        raise InputError("this page takes no answers")


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid")

    asked: dict[str, Any] = {}
    answer: Any = None


def create_app(board: Board) -> Flask:
    """Return the WSGI application: `/` the page, `/view`, which takes answers too, and
    `/picture/N`.
    """
    from flask import Flask, Response, abort, request, send_from_directory
    from werkzeug.exceptions import HTTPException

    app = Flask(__name__, static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = board.max_bytes
    one_at_a_time = Lock()

    @app.get("/")
    def page() -> str:
        return render("extensions/pages", "board.html", page_title=board.title, board=board)

    @app.get("/board.js")
    def script() -> Response:
        return send_from_directory(Path(__file__).with_name("templates"), "board.js")

    @app.post("/view")
    def view() -> Any:
        asked = _Request.model_validate(request.get_json())
        with one_at_a_time:
            if asked.answer is not None and not board.answer(asked.answer):
                return {"message": "Another tab was faster; this is what is next."}, 409
            return vars(board.view(asked.asked))

    @app.get("/picture/<int:number>")
    def picture(number: int) -> Response:
        try:
            image = decode_image(board.picture(number), board.max_pixels)
        except (LookupError, OverflowError, BadImage, ReactError, OSError) as error:
            logger.warning("picture %d cannot be shown: %s", number, error)
            abort(404)
        image.thumbnail((900, 900) if board.single else (384, 384))
        image.save(data := io.BytesIO(), "JPEG", quality=90)
        # The same number is another picture on another board at this port.
        headers = {"Cache-Control": "no-store"}
        return Response(data.getvalue(), mimetype="image/jpeg", headers=headers)

    for kind in (HTTPException, ValueError, ReactError):
        app.register_error_handler(kind, _explain)
    guard(app, board.pictures_from)
    return app


def _explain(error: Exception) -> tuple[dict[str, str], int]:
    """Return the answer to a request that failed: a message, and its status."""
    status = 400 if isinstance(error, InputError | ValueError) else 500
    status = 507 if isinstance(error, StoreWriteError) else getattr(error, "code", status)
    if status >= 500:
        logger.warning("%s", error)
    return {"message": one_line(error)}, status


@contextmanager
def open_lines(path: Path) -> Iterator[Callable[[str], bytes]]:
    """Hold a file for this process alone; yields a function that appends a line and returns its
    bytes.

    Raises:
        InputError: If another process holds it.
        StoreWriteError: If it cannot be written; then it is as it was.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    except OSError as error:
        raise StoreWriteError(f"{path}: {error.strerror}; make the folder writable") from error

    def write(line: str) -> bytes:
        data = line.encode() + b"\n"
        try:
            append(descriptor, data)
        except OSError as error:
            raise StoreWriteError(f"{path}: {error.strerror}; free space, click again") from error
        return data

    try:
        if not lock(descriptor, wait=False):
            raise InputError(f"{path}: another command has it open; use its page, or stop it")
        # What a kill left of a line was never acknowledged; a whole one was added by hand.
        whole, _, last = path.read_bytes().rpartition(b"\n")
        os.ftruncate(descriptor, len(whole) + 1 if whole else 0)
        with suppress(ValueError, RecursionError):
            json.loads(last)
            append(descriptor, last + b"\n")
        yield write
    finally:
        os.close(descriptor)
