"""The live view of a search.

`view` says what there is to see; `stored` makes it of a run.db, whoever works on that. `frame` lays it out in lines,
`screen` puts these on a terminal, `machine` asks the devices.
"""
