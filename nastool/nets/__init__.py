"""Networks: children and supernets, the modules they are made of, their weights and devices."""
