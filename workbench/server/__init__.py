"""The HTTP server of the app: the door in front of it, the page as it is sent, the process."""
