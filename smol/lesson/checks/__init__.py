"""The checks of the exercises: a file for each notebook, of its name.

Notebook 2 has three kinds more: slips*.py (the classic mistakes), raised.py (those that raise)
and judge.py (the verdict).
"""
