"""The app: train JoLA in the browser, watch the gates, and compare answers with and without the edits."""
