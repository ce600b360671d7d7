"""Looking after a server: its state and its avatars."""
