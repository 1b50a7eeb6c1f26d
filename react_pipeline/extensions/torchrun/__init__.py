"""Trainings in several processes, of one machine or more, which torchrun starts."""
