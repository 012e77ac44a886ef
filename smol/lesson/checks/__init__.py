"""The checks of the exercises: a file for each notebook, of its name."""
