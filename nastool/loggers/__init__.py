"""Loggers of this package, one a file, and what sends trials to them."""
