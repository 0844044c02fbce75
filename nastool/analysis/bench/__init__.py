"""Compares strategies on tabular benchmarks: `nastool bench`.

specs       what is compared: strategies and tables, as text
benchmark   a table that has been read
loop        one run: ask, look up, tell
pool        many runs, in worker processes
journal     the folder that keeps them;  provenance: with what they were made
plan        which runs a call asks for, and where their results are read
summary     what the runs say together, by statistics
report      results.csv and report.md;  plots: the curves
"""
