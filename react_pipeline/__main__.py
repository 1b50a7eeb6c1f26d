"""`python -m react_pipeline` is the command line."""

from react_pipeline.commands.start import main

main()
