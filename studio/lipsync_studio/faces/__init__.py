"""Finding faces and their landmarks in pictures."""
