"""Mutants that no test can kill, because the program does the same with them: see mutate.py.

Per module a list of (the line as it is, the line as it is changed, why it makes no difference). Of a statement that
takes several lines, its first.
"""

EQUIVALENT = {}
