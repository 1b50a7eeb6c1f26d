"""Write `grocery.csv`: the test photographs of the Grocery Store Dataset that show fruit and
vegetables, and their classes.

Run it in a copy of the recipe's folder, in which `GroceryStoreDataset` was cloned.
"""

from __future__ import annotations

import csv
from pathlib import Path

SINGULAR = {"Carrots": "carrot", "Pepper": "bell pepper", "Satsumas": "satsuma"}
test = Path("GroceryStoreDataset/dataset/test")
rows = []
for kind in ("Fruit", "Vegetables"):
    for path in sorted((test / kind).rglob("*.jpg")):
        coarse = path.relative_to(test / kind).parts[0]
        rows.append((path, SINGULAR.get(coarse, coarse.replace("-", " ").lower())))
if not rows:
    raise SystemExit(f"{test}: no photographs; clone the data set into this folder first")
with Path("grocery.csv").open("w", encoding="utf-8", newline="") as file:
    table = csv.writer(file, lineterminator="\n")
    table.writerows([("path", "class"), *rows])
print(f"grocery.csv: {len(rows)} photographs of {len({name for _, name in rows})} classes")
