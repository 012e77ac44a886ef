"""The checks of the exercises: a file for each notebook, of its name, and those beside it.

Notebook 2 has three kinds more: slips*.py (the classic mistakes), raised.py (those that raise)
and judge.py (the verdict). Notebook 9's are in finetune.py, lora.py and preference.py.
"""
