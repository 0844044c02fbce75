"""A diagram or scene in each of the forms that can be written."""
