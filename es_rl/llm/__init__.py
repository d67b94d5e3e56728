"""Fine-tune language models on any reward."""
