"""Preparation: from footage of a person to crop boxes, face crops, speech, checks and an idle loop."""
