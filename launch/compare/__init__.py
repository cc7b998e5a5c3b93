"""Trained runs beside each other: a table, curves, images, on one page.

Modules: workdir (a run's folder -> what it has come to), knobs (which differ,
and their short names), table (rows -> Markdown, CSV), page (the page), all of
which a sweep's report uses too; runs (the runs of a command line), remarks
(what their reader must know), report (the files).
"""
