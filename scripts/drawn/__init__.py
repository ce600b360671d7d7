"""The drawn demo avatar: a portrait whose mouth can be told what to do, and training pictures of it."""
