"""Search spaces, one a file. Import them as `nastool.spaces.NAME`."""

if __name__ != "nastool.spaces":
    raise ImportError("import nastool.spaces, not the top-level folder 'spaces'")
