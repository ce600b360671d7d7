"""A packed avatar: one file to copy, and its folders in a server's model repository."""
