"""The page of the corpus, over clip-retrieval's back end with our index and our model.

clip-retrieval's own server listens to every network and lets every web page ask it; here its parts
are assembled in another way, and its clients find the same requests and answers. Its own page has
controls for models that are not here. Ours may load nothing from elsewhere but, for corpora of
URLs, their pictures.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from react_pipeline.embedding import require_clip_retrieval
from react_pipeline.extensions.ui import guard, serve_app
from react_pipeline.pages import render
from react_pipeline.project import Project

if TYPE_CHECKING:
    from flask import Flask

MAX_REQUEST_BYTES = 16 << 20
INDEX_NAME = "corpus"


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
        InputError: If the corpus is not indexed as it is today, or clip-retrieval is not installed.
    """
    from flask import Flask, Response, send_from_directory
    from flask_restful import Api  # type: ignore[import-untyped]

    require_clip_retrieval()
    from react_pipeline.extensions.corpus_page.corpus_service import (
        DescriptionService,
        SearchService,
        open_corpus,
    )

    resource = open_corpus(project)
    resources = {INDEX_NAME: resource}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from clip_retrieval.clip_back import IndicesList
    app = Flask(__name__, static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = MAX_REQUEST_BYTES

    @app.get("/")
    def page() -> str:
        name = project.config.project
        rows = resource.metadata_provider.rows
        return render(
            "extensions/corpus_page",
            "corpus.html",
            page_title=f"Corpus of {name}",
            project=name,
            rows=rows,
            index=INDEX_NAME,
        )

    @app.get("/corpus.js")
    def script() -> Response:
        return send_from_directory(Path(__file__).with_name("templates"), "corpus.js")

    api = Api(app)
    api.add_resource(
        IndicesList, "/indices-list", resource_class_kwargs={"indices": list(resources)}
    )
    api.add_resource(
        SearchService, "/knn-service", resource_class_kwargs={"clip_resources": resources}
    )
    api.add_resource(
        DescriptionService, "/metadata", resource_class_kwargs={"clip_resources": resources}
    )
    guard(app, "http: https:" if project.config.corpus.fetches_images else "")
    return app
