"""Speech from files and arrays, and talking faces into video files."""
