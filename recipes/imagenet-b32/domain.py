"""Write `domains/imagenet.yaml`: the class names and templates of CLIP's ImageNet, as open_clip has
them.

Run it with the project's Python in a copy of the recipe's folder. Two of the 1,000 names occur
twice ("missile", "sunglasses"); the ids of these four classes have their number.
"""

from __future__ import annotations

from pathlib import Path

import yaml

from react_pipeline.extensions.elevater.datasets import IMAGENET

names = IMAGENET.class_names
classes = [
    {"id": f"{name} ({number})", "name": name} if names.count(name) > 1 else name
    for number, name in enumerate(names)
]
evaluation = {"name": "ImageNet", "kind": "elevater", "path": "../data", "dataset": IMAGENET.name}
domain = {
    "title": "ImageNet-1K",
    "classes": classes,
    "templates": "imagenet",
    "evaluation": evaluation,
}
target = Path("domains/imagenet.yaml")
target.parent.mkdir(exist_ok=True)
target.write_text(yaml.safe_dump(domain, allow_unicode=True, sort_keys=False), encoding="utf-8")
print(f"{target}: {len(classes)} classes")
