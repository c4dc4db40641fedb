"""The one exception that speaks to the user."""


class InputError(ValueError):
    """Something the user gave cannot be used.

    The message is one sentence that says what is wrong and what to do about it; the command line prints it
    and exits with 2, the app shows it, and neither shows a traceback.
    """
