"""The Python interface: any torch.nn.Module, any score."""
