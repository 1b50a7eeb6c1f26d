"""The page of a review: one pair at a time, on loopback.

Belongs here: what the page asks and gets. Does not belong here: the decisions (`log`), their order
(`pairs`), who may ask (`extensions.ui`).
"""

from __future__ import annotations

import io
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from react_pipeline.corpus import BadImage, decode_image
from react_pipeline.extensions.review.log import ReviewLog
from react_pipeline.extensions.review.pairs import ReviewedSet
from react_pipeline.extensions.ui import guard
from react_pipeline.pages import render
from react_pipeline.project import ImageVerdict
from react_pipeline.store import InputError, ReactError, StoreWriteError

if TYPE_CHECKING:
    from flask import Flask

SHOWN_PIXELS = 900
"""The longer side of an image on the page."""

VERDICTS = get_args(ImageVerdict)


def create_page(pairs: ReviewedSet, log: ReviewLog) -> Flask:
    """The WSGI application: `/` the page, `/state`, `/picture/N`, and `/decide`, which is posted
    to.
    """
    from flask import Flask, Response, abort, request, send_from_directory

    app = Flask(__name__, static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = 4096

    @app.get("/")
    def page() -> str:
        return render(
            "extensions/review",
            "review.html",
            page_title=f"Review: {pairs.slug}",
            main_class="judging",
            domain=pairs.slug,
        )

    @app.get("/review.js")
    def script() -> Response:
        return send_from_directory(Path(__file__).with_name("templates"), "review.js")

    @app.get("/state")
    def state() -> dict[str, Any]:
        return state_of(pairs, log, request.args.get("class", ""))

    @app.get("/picture/<int:number>")
    def picture(number: int) -> Response:
        if not number < len(pairs.pairs):
            abort(404)
        try:
            image = decode_image(pairs.read(number), pairs.project.config.corpus.max_pixels)
        except (BadImage, ReactError):
            abort(404, "the image cannot be read")
        image.thumbnail((SHOWN_PIXELS, SHOWN_PIXELS))
        image.save(data := io.BytesIO(), "JPEG", quality=90)
        headers = {"Cache-Control": "no-store"}
        return Response(data.getvalue(), mimetype="image/jpeg", headers=headers)

    @app.post("/decide")
    def decide() -> dict[str, Any]:
        try:
            label = record(pairs, log, request.get_json())
        except InputError as error:
            abort(400, str(error))
        except StoreWriteError as error:
            abort(507, str(error))
        return state_of(pairs, log, label)

    guard(app)
    return app


def record(pairs: ReviewedSet, log: ReviewLog, body: Any) -> str:
    """Write a posted decision, or with verdict null take the last one back; returns the class to go
    on with.

    Raises:
        InputError: If it is no decision.
        StoreWriteError: If the disk refuses it.
    """
    fields = body if isinstance(body, dict) else {}
    verdict = fields.get("verdict", "")
    if verdict is None:
        last = log.take_back()
        if last is None:
            raise InputError("there is nothing to take back")
        return last.label
    # By its digest: a page that was left open may show another order.
    pair = next((one for one in pairs.pairs if one.image == fields.get("image")), None)
    if verdict not in VERDICTS or pair is None:
        raise InputError(
            f"a decision has the `image` of a pair of this set and a `verdict`: "
            f"{', '.join(VERDICTS)} or null; load the page again"
        )
    to = fields.get("to", "") if verdict == "move" else ""
    if verdict == "move" and to not in pairs.project.domain(pairs.slug).class_names:
        raise InputError(f"{to!r} is not a class of {pairs.slug}")
    log.decide(pair, verdict, to)
    return pair.label


def state_of(pairs: ReviewedSet, log: ReviewLog, label: str) -> dict[str, Any]:
    """What the page shows now: the next pair without a decision of a class, or of the next class
    that has one.
    """
    open_numbers = [
        number for number, pair in enumerate(pairs.pairs) if pair.image not in log.decisions
    ]
    open_by_label = Counter(pairs.pairs[number].label for number in open_numbers)
    total = Counter(pair.label for pair in pairs.pairs)
    number = next((one for one in open_numbers if pairs.pairs[one].label == label), None)
    if number is None:
        start = pairs.labels.index(label) if label in pairs.labels else 0
        after = set(pairs.labels[start:])
        later = (one for one in open_numbers if pairs.pairs[one].label in after)
        number = next(later, next(iter(open_numbers), None))
    pair = None if number is None else pairs.pairs[number]
    verdicts = Counter(str(decision.verdict) for decision in log.decisions.values())
    return {
        "pair": number,
        "image": pair.image if pair else "",
        "label": pair.label if pair else "",
        "caption": pair.caption if pair else "",
        "shown": [
            {"name": name, "open": open_by_label[name], "total": total[name]}
            for name in pairs.labels
        ],
        "classes": pairs.project.domain(pairs.slug).class_names,
        "verdicts": {name: verdicts[name] for name in VERDICTS},
        "total": len(pairs.pairs),
        "decided": len(pairs.pairs) - len(open_numbers),
    }
