"""Names of plugins that are taken unless the user names others; nothing else knows any by name."""

STRATEGY = "evolution"
SPACE = "nasbench201"
EVALUATOR = "train"
TRAINING = "train"
"""Evaluator that trains from scratch what a search has found."""
BASELINE = "random"
"""Strategy that others are compared with."""
