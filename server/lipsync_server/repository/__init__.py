"""The model repository: building it from its sources, and packing avatars into it."""
