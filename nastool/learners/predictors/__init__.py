"""Models that predict a metric from encoded architectures."""
