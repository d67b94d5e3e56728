"""Callbacks of `es_rl.Trainer` and `es_rl.ES`: early stopping, checkpoints, TensorBoard, lines on the screen."""

from es_rl.trainer.callbacks import Checkpoint, EarlyStopping, Print, TensorBoard

__all__ = ["Checkpoint", "EarlyStopping", "Print", "TensorBoard"]
