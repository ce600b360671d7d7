"""Loads avatars on demand and unloads others, within limits."""
