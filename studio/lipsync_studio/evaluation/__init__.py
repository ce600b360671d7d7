"""What `scripts/evaluate_avatar.py` measures, and how."""
