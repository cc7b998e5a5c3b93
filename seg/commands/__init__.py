"""The parts of the command `seg`, one a file.

Its docstring is what `--help` says first, `define()` registers its flags, and
`main(arguments)` gives the exit status. Heavy libraries are imported by what
needs them, so that --help and a mistyped flag answer at once.
"""
