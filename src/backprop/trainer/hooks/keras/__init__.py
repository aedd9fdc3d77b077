"""The hook for Keras 3."""
