"""From footage of a person to what an avatar is made of."""
