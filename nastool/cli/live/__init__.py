"""The live view of a search.

`view` says what there is to see and `frame` lays it out in lines. `watched` makes a view of a search's events,
`stored` of the run.db of a search that runs elsewhere. `screen` puts lines on a terminal, `machine` asks the devices.
"""
