"""A sweep: trainings that differ in a few knobs, compared with one another.

Modules: plan (SWEEP -> trials), values (its knobs and their values), search
(the next trial of a search), work (one trial in its folder, as child
processes), share (trials among threads and processes), same (whether what lies
there is what is asked for), results (files -> scores), report (table, pictures,
parent run).
"""
