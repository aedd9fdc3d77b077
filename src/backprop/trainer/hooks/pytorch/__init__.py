"""The hook for PyTorch scripts with a training loop of their own."""
