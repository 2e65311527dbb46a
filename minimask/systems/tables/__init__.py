"""The decks' tables, run again at the size of drawn scenes: `python -m minimask tables`.

    rows.py       what is trained: one row per line of a table, and which two rows each claim compares
    trunk.py      a trained, frozen body whose features are kept, so that heads train in seconds (--quick)
    training.py   one run: train a row with one seed, measure it on unseen scenes
    cost.py       what one image costs a system, in forward passes, multiplications and seconds (slide T09)
    queue.py      all runs, several at once; each ends as one json file, so whatever is interrupted can go on
    verdicts.py   is a difference shown? paired seeds, twice the standard error
    report.py     the tables as text and markdown; figure.py draws them

All rows see the same scenes in the same order, for the same number of steps, with the same optimizer and schedule. The
learning rate of each row is chosen by the same search on validation scenes (--search); the test scenes are for the
tables alone.
"""
