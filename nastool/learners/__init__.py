"""Models that strategies learn: controllers, surrogates and predictors."""
