"""What is done with frames and images of an environment before a policy sees them: keys and wrappers."""

from es_rl.envs.pixels.config import PLAIN, PixelsConfig, View, check_view

__all__ = ["PLAIN", "PixelsConfig", "View", "check_view"]
