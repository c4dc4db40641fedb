"""What the app does, without Gradio: sessions, the queue, comparisons, exports, estimates."""
