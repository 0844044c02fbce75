"""Runs looked at: statistics, comparisons, figures and reports."""
