"""Control of a server: its state and its avatars."""
