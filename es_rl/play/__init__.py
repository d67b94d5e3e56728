"""Watch a trained policy in a window, and steer it with the keyboard."""
