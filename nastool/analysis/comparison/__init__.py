"""`nastool compare`: what runs say of the methods that made them.

`gather` reads folders into methods (runs that are equal but for the seed), `statistics` are functions of arrays alone,
`compare` puts the two together, `render` makes text, Markdown, HTML or JSON of it.
"""
