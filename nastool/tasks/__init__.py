"""What networks are for, and the data of it: one folder for each family."""
