"""Commands that earlier commits had: each answers in one sentence for one release."""

import typer

from react_pipeline.store import InputError

GONE = {
    "assess": "`predict --threshold` labels unsure pictures `unknown`",
    "backup": "copy databases and store as `Operation` of docs/production.md says",
    "improve": "add synonyms to the domain's file, and reject pairs with `review`",
    "report": "open dashboard.html of `comparison` and `overview`; `results` prints the figures",
    "restore": "copy databases and store back, and run `verify`",
    "seeds": "list pictures as `seeds` of classes in the domain's file",
    "test-alerts": "send a message with `apprise -b TEXT ADDRESS`",
}
"""What to do in place of each command."""


def add_gone_commands(app: typer.Typer) -> None:
    """Add the commands of `GONE`, which `--help` does not show."""
    for name in GONE:
        app.command(
            name,
            hidden=True,
            context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
        )(_refuse)


def _refuse(context: typer.Context) -> None:
    """Refuse a command that was removed."""
    name = str(context.info_name)
    raise InputError(f"`{name}` was removed: {GONE[name]}")
