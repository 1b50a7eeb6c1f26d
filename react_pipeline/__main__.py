"""The entry point: `react-pipeline`, or `python -m react_pipeline`, watched for SIGINT and SIGTERM
from its first moment.

Belongs here: nothing that takes time to load.
"""

import sys

from react_pipeline.stop import watched


def main() -> None:
    """Run the command line; see `cli.main`."""
    with watched():
        from react_pipeline.store import InputError

        try:
            from react_pipeline.commands.cli import main as run
        except InputError as error:  # an extension of another package cannot be loaded
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)
        run()


if __name__ == "__main__":
    main()
