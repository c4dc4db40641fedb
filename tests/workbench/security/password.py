"""How tests log in."""

PASSWORD = ("ada", "correct horse")
