from .live import LiveRun as LiveRun
