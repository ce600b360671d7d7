"""Speech with known mouth movements, and what the training runs share."""

import stages  # noqa: F401  the mel stage's folder
