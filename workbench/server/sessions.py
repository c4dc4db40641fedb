"""Gradio's state of each visitor."""

from typing import Any

from gradio.state_holder import SessionState, StateHolder


class Sessions(StateHolder):
    """Sessions without Gradio's copy of the configuration of every component, which only deep links need.

    The app has no deep links, and the copies take most of the memory of a session.
    """

    def __getitem__(self, session_id: str) -> SessionState:
        known = session_id in self.session_data
        session = super().__getitem__(session_id)
        if not known:
            session.config_values = _KeepsNothing()
        return session


class _KeepsNothing(dict[Any, Any]):
    """A dictionary that has an empty entry for every key and ignores writes."""

    def __contains__(self, key: object) -> bool:
        return True

    def __missing__(self, key: Any) -> dict[str, Any]:
        return {}

    def __setitem__(self, key: Any, value: Any) -> None:
        """Ignore the value."""
