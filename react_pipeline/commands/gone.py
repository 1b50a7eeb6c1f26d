"""Commands that earlier commits had: each answers in one sentence for one release."""

from collections.abc import Callable

import typer

from react_pipeline.store import InputError

GONE = {
    "assess": "`predict --threshold` labels unsure pictures `unknown`",
    "backup": "copy databases and store while no step runs",
    "dense demo": "set `dense.own` to sets of your own, and materialize `dense_comparison`",
    "elevater validate": "`elevater submit` says which data sets are in the zip",
    "improve": "add synonyms to the domain's file, and reject pairs with `review`",
    "report": "open dashboard.html of `comparison` and `overview`; `results` prints the figures",
    "restore": "copy databases and store back, and run `verify`",
    "seeds": "list pictures as `seeds` of classes in the domain's file",
    "serve": "`browse` shows the corpus in a browser, and `search_pairs` answers programs",
    "test-alerts": "send a message with `apprise -b TEXT ADDRESS`",
}
"""Maps each removed command to what to do in its place."""


def add_gone_commands(app: typer.Typer) -> None:
    """Add the commands of `GONE`, which `--help` does not show."""
    groups = {group.name: group.typer_instance or app for group in app.registered_groups}
    for words in GONE:
        *group, name = words.split()
        add = (groups[group[0]] if group else app).command
        anything = {"allow_extra_args": True, "ignore_unknown_options": True}
        add(name, hidden=True, context_settings=anything)(_refusal(words))


def _refusal(words: str) -> Callable[[], None]:
    def refuse() -> None:
        raise InputError(f"`{words}` was removed: {GONE[words]}")

    return refuse
