"""The search itself: loop, store, workers, what follows a search and what a run leaves behind."""
