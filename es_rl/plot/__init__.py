"""The look of every figure and page of the package: `style` and `web`."""
