"""Experiments: comparisons of policies under attacks, their records, statistics, figures and reports.

`comparison.Comparison` is what `byzgym compare` plays, `compare.compare` plays it, `records` holds the files
and `statistics` the numbers; `tables`, `figures` and `report` show them. The submodules are imported one by
one, so that the command line starts without pandas, matplotlib and scikit-learn.
"""
