"""Compares strategies on tabular benchmarks: `nastool bench`.

specs       what is compared: strategies and tables, as text
benchmark   a table that has been read
loop        one run: ask, look up, tell
pool        many runs, in worker processes
journal     the folder that keeps them;  provenance: with what they were made
view        which seeds, how much of each, and where results are read;  plan: which runs are missing for it
results     what the runs say together: rows, pairs, curves, results.csv, report.md
"""
