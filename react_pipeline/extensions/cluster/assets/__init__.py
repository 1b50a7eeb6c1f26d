"""Starting the processes of a training, and what each of them does."""
