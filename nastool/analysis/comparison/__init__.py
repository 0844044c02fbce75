"""Comparisons of methods: one engine, fed with run folders by `nastool compare` and with a journal by `nastool bench`.

`engine` has means, differences, ranks and curves at marks. For `compare`, `gather` reads folders into methods (runs
that are equal but for the seed), `compare` puts the two together, and `render` says it in words or JSON.
"""
