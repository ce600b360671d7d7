"""Who makes avatars: prepares footage, imports and trains networks, evaluates. Needs the extra `studio`."""
