"""nastool: neural architecture search on the command line."""

__version__ = "0.1.0"
