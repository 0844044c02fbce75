"""Evaluators, one a file. Import them as `nastool.evaluators.NAME`."""

if __name__ != "nastool.evaluators":
    raise ImportError("import nastool.evaluators, not the top-level folder 'evaluators'")
