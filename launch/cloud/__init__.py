"""Launches on rented GPUs and TPUs: see `python -m launch.cloud --help`.

Modules: targets (what may be rented), plan (a command line -> SkyPilot's
task), skypilot (its own schema, and the submission).
"""
