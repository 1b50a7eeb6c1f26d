"""The sensor and the schedule of automation."""
