"""Texts: language modelling by words or characters."""
