"""The Studies tab."""
