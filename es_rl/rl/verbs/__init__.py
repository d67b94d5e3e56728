"""What the verbs do with a policy once their keys are read: this is where torch is imported."""
