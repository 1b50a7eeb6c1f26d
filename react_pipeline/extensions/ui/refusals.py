"""What servers refuse: a line of the log for each, and how many there were.

Does not belong here: what is refused, samples that a step skips (their ledgers).
"""

import json
import logging
from collections import Counter

REFUSALS: Counter[tuple[str, int]] = Counter()
"""By server and status, since this process began."""
MAX_REASON_CHARS = 300
"""A request must not fill the log."""

logger = logging.getLogger(__name__)


def record_refusal(server: str, status: int, reason: str) -> None:
    """Count a request that is refused, and log it as one line of JSON."""
    REFUSALS[server, status] += 1
    line = {"refused": server, "status": status, "reason": reason[:MAX_REASON_CHARS]}
    logger.warning("%s", json.dumps(line))
