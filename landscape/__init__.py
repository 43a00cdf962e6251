"""What the loss landscape of a trained network looks like, measured so that every number can be trusted."""

__version__ = "0.1.0"
