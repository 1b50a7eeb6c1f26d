"""Small sets with boxes and with label maps, on disk in the forms that people have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CLASSES = ("circle", "square", "triangle", "cross")
IDS = (3, 7, 20, 90)
"""Category ids have gaps, as COCO's."""
SIDE = 64


def instances(images: int = 4) -> dict[str, Any]:
    """COCO's JSON: in every image a box of two classes, and a crowd region in the first."""
    boxes = [
        {
            "id": 10 * image + place,
            "image_id": 100 + image,
            "category_id": IDS[(image + place) % 4],
            "bbox": [4 + 30 * place, 6, 24, 30],
            "area": 700,
            "iscrowd": int(image == 0 and place == 1),
        }
        for image in range(images)
        for place in range(2)
    ]
    return {
        "images": [
            {"id": 100 + number, "file_name": f"{number}.png", "width": SIDE, "height": SIDE}
            for number in range(images)
        ],
        "annotations": boxes,
        "categories": [
            {"id": number, "name": name} for number, name in zip(IDS, CLASSES, strict=True)
        ],
    }


def write_sets(root: Path, images: int = 4) -> Path:
    """`images/`, `annotations.json`, `labels/` (0 background, 255 border) and `names.txt` below a
    folder.
    """
    given = instances(images)
    for folder in ("images", "labels"):
        (root / folder).mkdir(parents=True)
    for about in given["images"]:
        image, labels = Image.new("RGB", (SIDE, SIDE), "white"), Image.new("L", (SIDE, SIDE))
        labels.paste(255, (0, 0, SIDE, 2))
        for box in given["annotations"]:
            if box["image_id"] == about["id"]:
                left, top, width, height = box["bbox"]
                place = (left, top, left + width, top + height)
                colour = np.random.default_rng(box["category_id"]).integers(0, 200, 3)
                image.paste(tuple(colour.tolist()), place)
                labels.paste(IDS.index(box["category_id"]) + 1, place)
        image.save(root / "images" / about["file_name"])
        labels.save(root / "labels" / about["file_name"])
    (root / "annotations.json").write_text(json.dumps(given))
    (root / "names.txt").write_text("\n".join(("background", *CLASSES)) + "\n")
    return root


OWN = [
    {"name": "boxes", "images": "{domain}/images", "annotations": "{domain}/annotations.json"},
    {
        "name": "masks",
        "images": "{domain}/images",
        "labels": "{domain}/labels",
        "names": "{domain}/names.txt",
    },
]
"""`dense.own` of what `write_sets` wrote in a folder of the domain's name."""
