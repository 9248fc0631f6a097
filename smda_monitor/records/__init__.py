"""Storey 1: records and configuration. Frozen, typed, documented per field; no model, no input or output."""
