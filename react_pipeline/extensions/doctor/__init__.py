"""What a machine and a project have, and what is missing."""
