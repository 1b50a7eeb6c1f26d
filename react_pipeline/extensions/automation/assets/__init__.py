"""Sensors, checks and the schedule of automation, and the runs that they read."""
