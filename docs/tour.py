"""The moving picture at the top of README, and the gallery of predictions.

Run after `make demo` and `docs.screenshots`: `.venv/bin/python -m docs.tour`. Needs Chromium. The
frames are parts of the pictures that `docs.screenshots` took of the user interfaces, and the
gallery, which is made of published results.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from markupsafe import Markup
from PIL import Image, ImageDraw, ImageFont, ImageOps

from docs.screenshots import IMAGES, open_page
from react_pipeline.corpus import thumbnail
from react_pipeline.labelled import PublishedImages, read_images
from react_pipeline.lineage import fresh
from react_pipeline.project import Project
from react_pipeline.settings import MAX_PIXELS

WIDTH, HEIGHT, CAPTION_HEIGHT, FRAME_MS = 1100, 620, 40, 4_000
SHOWN = 24
FRAMES = {
    "lineage": (
        (560, 560, 1880, 1345),
        "1. Each step from the class names to the comparison is a Dagster asset",
    ),
    "dagster-picture": ((582, 154, 1600, 900), "2. The class names find pairs in the corpus"),
    "mlflow-runs": (
        (215, 270, 1575, 870),
        "3. Each method, and its control on random pairs, is a run in MLflow",
    ),
    "dashboard": (None, "4. A page compares each method with the base and with its control"),
    "gallery": (None, "5. What the base predicts (above), and what gda predicts (below)"),
}
"""Of each picture the part that is shown (left, top, right, bottom; None: all), and its caption."""

STYLE = """<!doctype html><meta charset="utf-8"><style>
body {margin: 0; padding: 14px 18px; font: 15px sans-serif; color: #1c1917; width: 1064px}
p {margin: 0 0 12px; line-height: 1.35}
main {display: grid; grid-template-columns: repeat(8, 1fr); gap: 10px 8px}
figure {margin: 0; overflow: hidden; font-size: 13px; line-height: 1.3}
img {width: 84px; height: 84px; object-fit: contain; display: block; margin-bottom: 3px}
div {white-space: nowrap; overflow: hidden; text-overflow: ellipsis}
.right {color: #15803d; font-weight: 600} .wrong {color: #b91c1c}
</style>"""
FIGURE = Markup("<figure><img src='{}'>{}</figure>")
PREDICTION = Markup("<div class='{}'>{} {}</div>")


def gallery(project: Project, slug: str, method: str) -> str:
    """A page of random pictures that the base or the method gets right, with both predictions."""
    domain = project.domain(slug)
    images = read_images(fresh(project, "evaluation_set", slug), domain)
    published = PublishedImages(tuple(images["path"]), tuple(images["sha256"]), MAX_PIXELS)
    first = {}
    for name in ("base", method):
        results = fresh(project, "domain_results", f"{slug}/{name}")
        table = pd.read_parquet(results.file("predictions.parquet")).set_index("image")
        first[name] = table["predicted"].str[0].loc[images["name"]].to_numpy()
    base, new = (of == images["class_id"].to_numpy() for of in first.values())
    about = Markup(
        "{}: of {} pictures of {} classes base and {} get {} right, {} alone {}, the base alone {}, "
        "and neither {}. Below are {} of those that one gets right, drawn at random: above what the "
        "base says, below what {} says."
    ).format(
        *(slug.capitalize(), len(images), len(domain.class_names), method, (base & new).sum()),
        *(method, (new & ~base).sum(), (base & ~new).sum(), (~base & ~new).sum(), SHOWN, method),
    )
    figures = []
    for place in np.random.default_rng(0).permutation(np.flatnonzero(base | new))[:SHOWN]:
        texts = [
            PREDICTION.format(*(("right", "✓") if right[place] else ("wrong", "✗")), name)
            for right, name in (
                (right, domain.class_names[of[place]])
                for right, of in zip((base, new), first.values(), strict=True)
            )
        ]
        picture = thumbnail(published.read(place))
        figures.append(FIGURE.format(picture, Markup().join(texts)))
    return f"{STYLE}<p>{about}</p><main>{Markup().join(figures)}</main>"


def frame(name: str) -> Image.Image:
    """The part of a picture, with its caption below it."""
    part, caption = FRAMES[name]
    picture = Image.open(IMAGES / f"{name}.png").convert("RGB").crop(part)
    shown = Image.new("RGB", (WIDTH, HEIGHT + CAPTION_HEIGHT), "#14532d")
    shown.paste(ImageOps.pad(picture, (WIDTH, HEIGHT), color="white"))
    font = ImageFont.load_default(size=21)
    ImageDraw.Draw(shown).text((16, HEIGHT + 8), caption, "white", font)
    return shown


def main() -> None:
    """Take the gallery, and make the moving picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, default=None)
    parser.add_argument("--domain", default="objects")
    arguments = parser.parse_args()
    project = Project.load(arguments.config)
    with open_page(WIDTH, HEIGHT) as page:
        page.set_content(gallery(project, arguments.domain, "gda"))
        page.locator("body").screenshot(path=IMAGES / "gallery.png")
    join_frames()


def join_frames() -> None:
    """Make the moving picture of the pictures that are there."""
    first, *rest = map(frame, FRAMES)
    path = IMAGES / "tour.webp"
    first.save(path, save_all=True, append_images=rest, duration=FRAME_MS, loop=0, quality=85)
    print(path, path.stat().st_size, flush=True)


if __name__ == "__main__":
    main()
