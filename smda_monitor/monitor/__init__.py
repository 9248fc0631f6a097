"""Storey 4: what runs while a model trains, from the trainer's events to accounts and sinks. Knows no command."""
