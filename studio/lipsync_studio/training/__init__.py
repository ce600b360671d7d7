"""Speech with known mouth movements, and what the training runs share."""
