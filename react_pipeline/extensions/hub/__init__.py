"""Giving a model away: the exported folder with its card and further formats, and the Hub."""
