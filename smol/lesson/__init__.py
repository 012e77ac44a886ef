"""What only the notebooks use; nothing else of the package imports it.

code         same_code and show: one source of code
exercise     what an exercise is, and how its check speaks
kind         the kinds of answers: a number, a list …, and what is said of another
checks       the checks of the exercises, a file for each notebook
figures      every picture, a file for each notebook

`python -m smol.lesson` prints the key to the planted bugs of notebook 3.
"""
