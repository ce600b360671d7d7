"""The commands of the extra `server`."""
