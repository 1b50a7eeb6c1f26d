"""Verdicts of checks: nothing was measured, or a figure is lower than it should be.

Does not belong here: any check; each is beside its asset.
"""

import dagster as dg


def unmeasured(reason: str) -> dg.AssetCheckResult:
    """Nothing to compare is not a fault, but it must not look like a success either."""
    return dg.AssetCheckResult(
        passed=True, description=f"not measured: {reason}", metadata={"measured": False}
    )


def warning_below(
    difference: float, what: str, *, tolerance: float, remedy: str = ""
) -> dg.AssetCheckResult:
    """Pass if `difference` is above minus the tolerance; else warn, with what to do."""
    passed = difference > -tolerance
    description = f"{what}: {100 * difference:+.1f} points"
    return dg.AssetCheckResult(
        passed=passed,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"difference": difference},
        description=f"{description}; {remedy}" if remedy and not passed else description,
    )
