"""Reading speech from files, and writing video."""
