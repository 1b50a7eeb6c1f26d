"""What downloads cost, for `plan`."""

ALIVE = 0.7
"""Share of web image URLs still alive after a few years; assumed."""
URLS_PER_CORE_SECOND = 100e6 / 72_000 / 16
"""100 million in 20 hours on 16 cores, by the README of img2dataset; assumed of ours too."""
DOWNLOADER_SECONDS = 5.0
"""To start a downloading process."""
