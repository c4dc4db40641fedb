"""The exception for mistakes of the user."""

DIVERGED = "The training diverged"
"""Beginning of the message of a training whose loss or edits are not finite."""


class InputError(ValueError):
    """An input of the user cannot be used.

    The message is one sentence that says what is wrong and what to do about it. The command line prints it and exits
    with 2, the app shows it, and neither shows a traceback.
    """
