"""Storey 2: pure functions on tensors. They know neither trainer, nor disk, nor W&B."""
