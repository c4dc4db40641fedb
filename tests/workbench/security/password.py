"""The user name and password of tests."""

PASSWORD = ("ada", "correct horse")
