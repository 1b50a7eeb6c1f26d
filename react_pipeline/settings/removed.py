"""Fields and values of configuration files that are gone: each is refused with what to do instead.

Does not belong here: commands that are gone (`commands.gone`).
"""

REMOVED = {
    "app_name": "remove it; Spark's page is named after the project",
    "alerts.free_disk_fraction": "remove it; watch `react_disk_bytes` of the metrics",
    "automation.benchmark": "list `elevater` in `automation.extensions`",
    "balance": "remove it; a class never takes a pair that fits another one better",
    "diverse": "use `choose: nearest` or `all`",
    "elevater.head_start": "remove it; a head starts from the text tower",
    "elevater.merge_projection": "remove it; the projection of the tower stays apart",
    "ensemble": "use `gda` or `few-shot-gda`",
    "corpus.keys": "remove it; a key may be in several shards",
    "index.retrain_factor": "remove it; an index is always built from scratch",
    "kept_states": "remove it; it is a constant",
    "max_text_fraction": "remove it",
    "of": "use `method` alone; ensembles are gone",
    "pd12m": "use `layout: datacomp` or `clip-retrieval`",
    "probe_every": "remove it; a training is checked at each state (`checkpoint_every`)",
    "refill_rounds": "remove it; it is a constant",
    "rrf": "use `fusion: preference` or `filter`",
    "retention.mlflow_days": "run `mlflow gc --older-than 30d` where MLflow's server runs",
    "shards_per_group": "remove it; shards are embedded one by one",
    "swat": "use `gda` or `few-shot-gda`",
}
"""Maps a field or value, by its name or its whole dotted path, to what to do in its place."""


def removed(name: str, path: str = "") -> str:
    """Return the sentence for a field or value that was removed; "" for any other."""
    remedy = REMOVED.get(path) or REMOVED.get(name)
    return f"`{name}` was removed: {remedy}" if remedy else ""
