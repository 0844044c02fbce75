"""Values, interfaces and files that everything else stands on. Imports no torch."""
