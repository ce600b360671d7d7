"""The commands of the extra `studio`."""
