"""The methods of the core, a module each; `ModelMethod` and `HeadMethod` are what they build on.

The modules load torch only when a training begins: the table of methods is read by every command.
"""
