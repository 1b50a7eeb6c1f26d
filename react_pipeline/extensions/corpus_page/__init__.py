"""The corpus in a browser: searched by texts and pictures."""
