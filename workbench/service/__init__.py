"""The application logic, without Gradio: sessions, the queue, comparisons, exports and estimates."""
