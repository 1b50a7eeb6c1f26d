"""`dagster api grpc` that forks each run from a process which has loaded torch and the assets,
which takes a second in place of ten; in it an hour between two tries of upkeep is `HOUR_SECONDS`.
"""

from __future__ import annotations

import multiprocessing

HOUR_SECONDS = 30


def main() -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["react_pipeline.assets.definitions", "react_pipeline.training.customization", "mlflow"]
    )
    first = context.Process(target=int)  # so that no run waits until all is loaded
    first.start()
    first.join()
    multiprocessing.get_context = lambda _=None: context  # type: ignore[assignment]
    from react_pipeline.extensions.automation import assets as upkeep

    upkeep.WAIT_HOURS = tuple(hours * HOUR_SECONDS / 3600 for hours in upkeep.WAIT_HOURS)
    from dagster._cli import main

    main()


if __name__ == "__main__":
    main()
