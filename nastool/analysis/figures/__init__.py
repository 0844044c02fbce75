"""Figures of runs, once for reports and for `nastool plot`: `kinds` has them all, `curves` is that of comparisons."""
