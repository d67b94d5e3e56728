"""Fine-tuning of language models on any reward."""
