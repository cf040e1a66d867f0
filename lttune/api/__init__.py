"""What a script calls; each function does what the command of its name does.

Paths that are given as text start from the current folder. `out` is the folder of all studies and of the shared cache.
A method of one's own is a `MethodTrainable` with its recipe and its loss in two tables, and is passed as `trainable`.
"""
