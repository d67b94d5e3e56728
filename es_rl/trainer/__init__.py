"""The Python interface: train any torch.nn.Module on any fitness."""
