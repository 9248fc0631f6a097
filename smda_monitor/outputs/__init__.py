"""Where figures go: ledger, report, console, Weights & Biases. Plain numbers, strings and tensors, never a model."""
