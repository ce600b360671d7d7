"""Live speech: sound goes in as it is made, frames come out at a steady rate."""
