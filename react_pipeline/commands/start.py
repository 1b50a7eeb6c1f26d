"""The entry point: `react-pipeline`, watched for SIGINT and SIGTERM from its first moment.

Belongs here: nothing that takes time to load.
"""

from react_pipeline.stop import watched


def main() -> None:
    """Run the command line; see `cli.main`."""
    with watched():
        from react_pipeline.commands.cli import main as run

        run()


if __name__ == "__main__":
    main()
