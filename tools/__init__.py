"""What the make targets run: copying exercises, releasing them, executing lectures, showing progress."""
