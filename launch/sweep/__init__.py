"""A sweep: trainings that differ in a few knobs, compared with one another.

Modules: plan (SWEEP -> trials), search (the next trial of a search), work (one
trial in its folder, as child processes), share (trials among threads and
processes), results (files -> scores), report (table, pictures, parent run).
"""
