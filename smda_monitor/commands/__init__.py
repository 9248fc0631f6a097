"""Storey 4: what the commands of ``smda`` do, a file each, and the audits and trainings behind them."""
