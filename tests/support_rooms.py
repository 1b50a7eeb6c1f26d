"""Prints the rooms with their floors: `python tests/support_rooms.py` (`support.rooms`)."""

from support.rooms import print_rooms

if __name__ == "__main__":
    print_rooms()
