from .spark import tasks_in_session as tasks_in_session
