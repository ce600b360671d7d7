"""A web page with a talking face, and the WebSocket behind it: `lipsync web`. `app` needs the extra `web`."""
