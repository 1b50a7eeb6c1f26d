"""The commands `react-pipeline search` and `react-pipeline serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from react_pipeline.commands import Config, console, load_project, print_table


def search(
    text: Annotated[str | None, typer.Argument(help="What to look for.")] = None,
    image: Annotated[
        Path | None, typer.Option(help="An image to look for, instead of a text.")
    ] = None,
    mode: Annotated[
        str | None,
        typer.Option(help="For a text: t2t (captions) or t2i (images); for an image: i2i or i2t."),
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, max=1_000, help="How many pairs.")] = 12,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="File for the contact sheet.")
    ] = Path("search.png"),
    config: Config = None,
) -> None:
    """Show the pairs of the corpus nearest to a text or an image, as a table and as a contact
    sheet.
    """
    from react_pipeline.extensions.corpus_page.search import draw_pairs, search_pairs

    project = load_project(config)
    pairs = search_pairs(project, text, mode, k, image=image)
    key = next(name for name in ("source", "image_path", "url") if name in pairs)
    shown = pairs[["rank", "similarity", "caption", key]].itertuples(index=False)
    rows = [
        [
            rank + 1,
            f"{similarity:.3f}",
            " ".join(str(caption).split())[:100],
            " ".join(str(name).split()),
        ]
        for rank, similarity, caption, name in shown
    ]
    print_table(["", "similarity", "caption", "file" if key == "source" else "key"], rows, right=2)
    draw_pairs(project, pairs, output)
    console.print(f"pictures: {output}")


def serve(
    port: Annotated[
        int, typer.Option(min=0, max=65_535, help="Port to listen on; 0 picks a free one.")
    ] = 1234,
    config: Config = None,
) -> None:
    """Browse the corpus in a browser: search it by texts and pictures, on this machine only; Ctrl-C
    stops it.
    """
    from react_pipeline.extensions.corpus_page.page import serve_corpus

    project = load_project(config)

    def start(url: str) -> None:
        console.print(f"{url}\nCtrl-C stops.")

    console.print("loading the index and the model ...")
    serve_corpus(project, port, start)
