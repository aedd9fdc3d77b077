"""The hook for the Trainer of Hugging Face transformers."""
