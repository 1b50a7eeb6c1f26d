"""What several test modules use: data, servers, processes, and measures of the source.

Does not belong here: fixtures (`conftest.py`), tests.
"""
