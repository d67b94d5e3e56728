"""Policies on the Hugging Face Hub: addresses, the model card, download and upload. Only `client` opens connections."""
