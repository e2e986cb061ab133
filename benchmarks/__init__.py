"""What every mechanism costs and how long it takes, against its dense or public peer: ``python -m benchmarks``.

A benchmark is a module with one function, ``cases(quick=…)``. It gives a list of cases, one for each line of the table:
a name for the progress bar, and a function that measures and returns the :class:`~benchmarks.table.Row`. A new module
is listed in ``BENCHMARKS`` of ``benchmarks/__main__.py``.
"""
