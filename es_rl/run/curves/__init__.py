"""The curves of a run: what each metric means, and TensorBoard's files."""
