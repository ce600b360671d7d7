"""The last stage: mouths pasted into an avatar's footage, as JPEG frames."""
