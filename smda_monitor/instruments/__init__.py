"""Storey 3: what reads models, optimizers, training rows and the user's files."""
