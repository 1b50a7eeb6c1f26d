"""REACT's own method, and `ModelMethod`, what methods that train a model build on.

The modules load torch only when a training begins: the table of methods is read by every command.
"""
