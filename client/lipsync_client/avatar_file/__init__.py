"""A packed avatar: a file to carry around, and its folders in a server's model repository."""
