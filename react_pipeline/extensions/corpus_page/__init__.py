"""The corpus searched by texts and pictures, in the terminal and in a browser."""
