from .remote import materialize_remotely as materialize_remotely
