"""Comparisons as pages that need nothing but themselves."""
