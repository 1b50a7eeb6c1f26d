"""The page of the corpus, and the addresses of clip-retrieval's back end.

The page may load nothing from elsewhere but, for corpora of URLs, their pictures.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from react_pipeline.extensions.ui import guard, serve_app
from react_pipeline.pages import render
from react_pipeline.project import Project
from react_pipeline.store import ReactError

if TYPE_CHECKING:
    from flask import Flask

MAX_REQUEST_BYTES = 16 << 20
INDEX_NAME = "corpus"

logger = logging.getLogger(__name__)


def serve_corpus(project: Project, port: int, on_start: Callable[[str], None]) -> None:
    """Serve until Ctrl-C, on any port that is free if it is 0; `on_start` gets the address as soon
    as it answers.

    Raises:
        InputError: If the port is taken, or the corpus is not indexed as it is today.
    """
    serve_app(lambda: create_app(project), port, on_start)


def create_app(project: Project) -> Flask:
    """The WSGI application: `/` the page, `/knn-service` a search, `/metadata` descriptions,
    `/indices-list`.

    Raises:
        MissingArtifact: If the corpus is not indexed yet.
        StaleArtifact: If the index is not of today's corpus or encoder; names the asset to
            rematerialize.
    """
    from flask import Flask, Response, request, send_from_directory
    from werkzeug.exceptions import HTTPException

    from react_pipeline.extensions.corpus_page.corpus_service import CorpusService
    from react_pipeline.extensions.corpus_page.search import CorpusSearch

    service = CorpusService(CorpusSearch.of(project))
    app = Flask(__name__, static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = MAX_REQUEST_BYTES

    @app.get("/")
    def page() -> str:
        name = project.config.project
        return render(
            "extensions/corpus_page",
            "corpus.html",
            page_title=f"Corpus of {name}",
            project=name,
            rows=service.rows,
            index=INDEX_NAME,
        )

    @app.get("/corpus.js")
    def script() -> Response:
        return send_from_directory(Path(__file__).with_name("templates"), "corpus.js")

    @app.get("/indices-list")
    def indices() -> list[str]:
        return [INDEX_NAME]

    @app.post("/knn-service")
    def search() -> list[dict[str, Any]]:
        return service.search(request.get_json(force=True))

    @app.post("/metadata")
    def metadata() -> list[dict[str, Any]]:
        return service.describe(request.get_json(force=True))

    for kind in (HTTPException, ValueError, ReactError):
        app.register_error_handler(kind, _explain)
    guard(app, "http: https:" if project.config.corpus.fetches_images else "")
    return app


def _explain(error: Exception) -> tuple[dict[str, str], int]:
    """The answer to a request that failed: a message, and its status."""
    from pydantic import ValidationError
    from werkzeug.exceptions import HTTPException

    if isinstance(error, HTTPException):
        return {"message": error.description or error.name}, error.code or 500
    if isinstance(error, ReactError):
        logger.warning("%s", error)
        return {"message": str(error)}, 500
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(map(str, first["loc"])) or "request"
        return {"message": f"{field}: {first['msg']}"}, 400
    return {"message": str(error)}, 400
