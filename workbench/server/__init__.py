"""The HTTP server of the app: request checks, the HTML page and the server process."""
