"""Extensions that ship with the package; each is declared in pyproject.toml as anybody's would be.

The core imports none of them, and works without this folder.
"""
