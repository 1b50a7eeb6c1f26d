"""Write `domains/imagenet.yaml`: the class names and templates of CLIP's ImageNet, as open_clip has them.

Run it with the project's Python in a copy of the recipe's folder. Two of the 1,000 names occur twice ("missile",
"sunglasses"). Equal names find equal pairs, so the domain, which decides what is retrieved, has 998. Accuracy is
measured by the benchmark's own table, in which the 1,000 classes keep their ids.
"""

from __future__ import annotations

from pathlib import Path

import yaml

from react_pipeline.settings import IMAGENET

names = list(dict.fromkeys(IMAGENET.class_names))
domain = {"title": "ImageNet-1K", "classes": names, "templates": "imagenet"}
target = Path("domains/imagenet.yaml")
target.parent.mkdir(exist_ok=True)
target.write_text(yaml.safe_dump(domain, allow_unicode=True, sort_keys=False), encoding="utf-8")
print(f"{target}: {len(names)} names of {len(IMAGENET.class_names)} classes")
