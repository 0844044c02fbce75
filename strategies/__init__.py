"""Search strategies, one a file. Import them as `nastool.strategies.NAME`."""

if __name__ != "nastool.strategies":
    raise ImportError("import nastool.strategies, not the top-level folder 'strategies'")
