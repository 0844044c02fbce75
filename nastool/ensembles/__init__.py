"""Several networks as one: what their mean predicts and is worth, which to take, and the predictions that decide it."""
