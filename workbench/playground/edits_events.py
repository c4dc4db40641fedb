"""The events of the settings of the edits, and of the map.

Each listener changes the state of the page, shows the mask, and updates the views of the prompt.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import gradio as gr

from jola.edits.masks import HeadMask
from jola.errors import InputError
from workbench.playground.edit_map import apply_edits
from workbench.playground.edits_panel import (
    ON_TOP,
    REMOTE,
    EditsPanel,
    mask_updates,
    run_updates,
    saved_choices,
    saved_masks,
)
from workbench.playground.live import LiveViews, look
from workbench.playground.wiring import PRIVATE, Wiring, page_of
from workbench.service.page_state import (
    PageState,
    chosen_run,
    edits_of,
    gates_of_edits,
    masks_text,
    open_gates,
    open_run,
)
from workbench.ui import markup

# Returns the link in place of the mask if it cannot be copied, as on a page of another computer without TLS.
_COPY_LINK = """async (mask, run) => {
  const address = new URL(location);
  address.searchParams.set("run", run || "");
  address.searchParams.set("tab", "playground");
  if (mask) address.searchParams.set("mask", mask); else address.searchParams.delete("mask");
  try {
    await navigator.clipboard.writeText(address.href);
    return ["", run];
  } catch {
    return [address.href, run];
  }
}"""

# Only an address that opens this tab has a mask, which must be that of the run in it.
_PUT_MASK_IN_ADDRESS = """(mask, run) => {
  const address = new URL(location), parts = address.searchParams, names = run && parts.get("tab") === "playground";
  if (names && parts.get("run") !== run) {
    parts.set("run", run);
    parts.delete("step");
  }
  if (names && mask) parts.set("mask", mask); else parts.delete("mask");
  history.replaceState(null, "", address);
  const shown = () => document.querySelector("#shared-mask :is(input, textarea)").value;
  document.querySelector("#edit-map .em")?.parentElement.editMap?.compare(shown);
}"""

_QUICK: dict[str, Any] = {**PRIVATE, "trigger_mode": "multiple"}
_KEEP_VIEWS = (gr.skip(),) * 4

Values = Iterator[tuple[Any, ...]]
Change = Callable[[PageState], PageState]

SIMPLE_CHANGES: Mapping[str, Change] = {
    "all": lambda s: s.with_mask(HeadMask.all(*s.mask.shape, s.mask.channels)),
    "none": lambda s: s.with_mask(s.mask.switched(_cells(s), "both", False)),
    "invert": lambda s: s.with_mask(s.mask.inverted()),
    "undo": lambda s: s.with_history(s.history.undone()),
    "redo": lambda s: s.with_history(s.history.redone()),
}
"""Changes of the buttons that need no value, by name."""


@dataclass(frozen=True)
class EditsEvents:
    """The listeners; ``about`` describes the run with an id as HTML."""

    wiring: Wiring
    panel: EditsPanel
    live: LiveViews
    about: Callable[[str | None], str]

    def connect(self) -> None:
        """Connect all events of the panel."""
        self._connect_mask()
        self._connect_answers()
        self._connect_saved()
        self._connect_link()
        self._connect_run()

    # Changes of the mask and of how edits are applied, each followed by an update of the views

    def _connect_mask(self) -> None:
        panel = self.panel
        self._on(panel.map.edit, self.on_edit)
        for name, change in SIMPLE_CHANGES.items():
            button = {"undo": panel.undo, "redo": panel.redo}.get(name) or panel.buttons[name]
            self._on(button.click, self._changing(change))
        for event, name in ((panel.map.undo, "undo"), (panel.map.redo, "redo")):
            self._on(event, self._changing(SIMPLE_CHANGES[name]))
        for name, box, change in (
            ("strongest", panel.strongest, self.keep_strongest),
            ("threshold", panel.threshold, self.keep_from),
        ):
            self._on([panel.buttons[name].click, box.submit], self._changing_to(change), box)

    def _connect_answers(self) -> None:
        panel = self.panel
        strength = self._changing_to(lambda state, value: replace(state, strength=float(value)))
        self._on(panel.strength.input, strength, panel.strength, trigger_mode="always_last")
        self._on(panel.where.input, self.on_where, panel.where)
        others = [panel.others, panel.arrangement]
        self._on([box.input for box in others], self._changing_to(with_others), *others)

    def _on(self, events: Any, listener: Callable[..., Any], *inputs: Any, **options: Any) -> None:
        asking = [*self.wiring.asking, self.wiring.answers, *inputs]
        outputs = [*self.panel.mask_outputs(), *self.live.outputs(self.wiring)]
        connect = events if callable(events) else partial(gr.on, events)
        connect(listener, asking, outputs, **{**_QUICK, **options})

    def changed(self, request: gr.Request, change: Change, text: str, kind: str, answers: str) -> Values:
        """Change the state, then update the mask and the views that depend on it.

        After quick gestures, the answer to an earlier one can reach the page last. The mask is therefore shown again at
        the end, as it is then, and so are the views if this listener has filled them for an earlier state.
        """
        page = page_of(request)
        try:
            state = self.wiring.pages.change(page, lambda state: change(_chosen(state)))
        except InputError as error:
            self.wiring.pages.change(page, PageState.with_answer)
            skipped = (gr.skip(),) * len(self.panel.mask_outputs())
            yield *skipped, markup.note(str(error), "error"), *_KEEP_VIEWS
            return
        shown, is_latest = mask_updates(self.wiring, state), False
        while not is_latest:
            has_filled = False
            for values in self._with_views(shown, state, page, text, kind, answers):
                has_filled = has_filled or values[-len(_KEEP_VIEWS) :] != _KEEP_VIEWS
                yield values
            latest = self.wiring.pages.get(page)
            if latest.run != state.run:
                return
            try:
                shown = mask_updates(self.wiring, latest)
            except InputError:  # the run was deleted meanwhile
                return
            is_latest = not has_filled or _views_of(latest) == _views_of(replace(state, asked=(text, kind, answers)))
            state, (text, kind, answers) = latest, latest.asked
        yield *shown, gr.skip(), *_KEEP_VIEWS

    def _with_views(
        self, shown: tuple[Any, ...], state: PageState, page: str, text: str, kind: str, answers: str
    ) -> Values:
        for values in look(self.wiring, state, page, text, kind, answers):
            yield *shown, *values
            shown = (gr.skip(),) * len(shown)

    def _changing(self, change: Change) -> Callable[..., Values]:
        """Return a listener that applies a change."""

        def listener(text: str, kind: str, answers: str, request: gr.Request) -> Values:
            yield from self.changed(request, change, text, kind, answers)

        return listener

    def _changing_to(self, change: Callable[..., PageState]) -> Callable[..., Values]:
        """Return a listener that applies a change with the values of further inputs."""

        def listener(text: str, kind: str, answers: str, request: gr.Request, *values: Any) -> Values:
            yield from self.changed(request, lambda state: change(state, *values), text, kind, answers)

        return listener

    def on_edit(self, text: str, kind: str, answers: str, request: gr.Request, evt: gr.EventData) -> Values:
        """Apply a gesture on the map."""
        payload = evt._data

        def change(state: PageState) -> PageState:
            if not isinstance(payload, dict) or payload.get("key") != state.key:
                return state
            mask, seen = apply_edits(state.mask, payload, state.seen)
            return replace(state.with_mask(mask), seen=seen)

        yield from self.changed(request, change, text, kind, answers)

    def on_where(self, text: str, kind: str, answers: str, request: gr.Request, where: str) -> Values:
        """Choose where the model runs, which is possible before choosing a run."""
        page = page_of(request)
        state = self.wiring.pages.change(page, lambda state: replace(state, remote=where == REMOTE))
        skipped = (gr.skip(),) * len(self.panel.mask_outputs())
        if not state.run:
            yield *skipped, "", *_KEEP_VIEWS
            return
        yield from self._with_views(skipped, state, page, text, kind, answers)

    def keep_strongest(self, state: PageState, k: float | None) -> PageState:
        """Keep only the ``k`` edits with the largest norm, times the gate if there is one."""
        edits = edits_of(chosen_run(self.wiring.bench, state.run))[state.site]
        gates = gates_of_edits(edits) or {}
        strengths = {
            channel: (norm * gates[channel] if channel in gates else norm).numpy()
            for channel, norm in edits.norms().items()
        }
        return state.with_mask(state.mask.strongest(int(k or 0), strengths, open_gates(state, self.wiring.bench)))

    def keep_from(self, state: PageState, threshold: float | None) -> PageState:
        """Keep only halves whose expected gate is at least ``threshold``. Raises `InputError` if there are no gates."""
        values = gates_of_edits(edits_of(chosen_run(self.wiring.bench, state.run))[state.site])
        if values is None:
            raise InputError("The edits of this run have no gates; keep the strongest instead.")
        gates = {half: value.numpy() for half, value in values.items()}
        return state.with_mask(state.mask.threshold(gates, float(threshold or 0)))

    # Masks that are saved with the run

    def _connect_saved(self) -> None:
        panel, outputs = self.panel, [self.panel.saved, self.wiring.message]
        self._on(panel.saved.select, self._changing_to(self.use_saved), panel.saved)
        self._on(panel.saved.input, self.on_another_saved, panel.saved)
        gr.on([panel.buttons["save"].click, panel.name.submit], self.on_save, panel.name, outputs, **PRIVATE)
        panel.buttons["remove"].click(self.on_remove, panel.saved, outputs, **PRIVATE)

    def use_saved(self, state: PageState, name: str | None) -> PageState:
        """Replace the current mask with the saved mask of this name."""
        return replace(state.with_mask(saved_masks(self.wiring, state).get(name)), saved=name) if name else state

    def on_another_saved(self, text: str, kind: str, answers: str, name: str | None, request: gr.Request) -> Values:
        """Replace the current mask with a saved mask that was chosen with the keyboard, unless it is the last one used.

        The list also calls this when it is left without a choice.
        """
        if not name or name == self.wiring.state(request).saved:
            yield *(gr.skip(),) * len(self.panel.mask_outputs()), gr.skip(), *_KEEP_VIEWS
            return
        yield from self._changing_to(self.use_saved)(text, kind, answers, name, request)

    def on_save(self, name: str, request: gr.Request) -> tuple[Any, Any]:
        """Save the current mask."""
        page = page_of(request)
        state = self.wiring.pages.change(page, PageState.with_answer)
        try:
            entry = saved_masks(self.wiring, _chosen(state)).save(name, state.mask, replace=True)
        except InputError as error:
            return gr.skip(), markup.note(str(error), "error")
        self.wiring.pages.change(page, lambda s: replace(s, saved=entry.name) if s.key == state.key else s)
        return saved_choices(self.wiring, state, entry.name), markup.note(f"Saved as “{entry.name}”.", "good")

    def on_remove(self, name: str | None, request: gr.Request) -> tuple[Any, Any]:
        """Delete a saved mask."""
        state = self.wiring.pages.change(page_of(request), PageState.with_answer)
        if not name:
            return gr.skip(), markup.note("Choose a saved mask to remove.", "error")
        try:
            saved_masks(self.wiring, _chosen(state)).remove(name)
        except InputError as error:
            return gr.skip(), markup.note(str(error), "error")
        return saved_choices(self.wiring, state), markup.note(f"Removed “{name}”.", "good")

    # The link to the run with its mask

    def _connect_link(self) -> None:
        panel = self.panel
        given = [panel.shared, panel.run]
        panel.buttons["link"].click(_link_words, given, self.wiring.message, js=_COPY_LINK, **PRIVATE)
        for box in (panel.shared, panel.run):
            box.change(None, given, None, js=_PUT_MASK_IN_ADDRESS)

    # Changing the run or the site

    def _connect_run(self) -> None:
        panel, wiring = self.panel, self.wiring
        outputs = [*panel.run_outputs(wiring), *self.live.outputs(wiring)]
        asking = [*wiring.asking, wiring.answers, panel.run]
        panel.run.select(self.on_run, asking, outputs, **_QUICK)
        panel.run.input(self.on_another_run, asking, outputs, **_QUICK)
        panel.map.differs(self.on_differs, [*wiring.asking, wiring.answers], outputs, **_QUICK)
        panel.site.input(self.on_site, panel.site, panel.run_outputs(wiring), **PRIVATE)

    def on_run(self, text: str, kind: str, answers: str, id: str | None, request: gr.Request) -> Values:
        """Open another run.

        If another one is chosen meanwhile, its answer may have overtaken this one, so it is shown again at the end.
        """
        page = page_of(request)
        try:
            state = self.wiring.pages.change(page, open_run(self.wiring.bench, id).opened_after)
        except InputError as error:
            state = self.wiring.pages.change(page, lambda before: PageState().opened_after(before).with_answer())
            closed = run_updates(self.wiring, state, self.about(id))
            yield *closed, markup.note(str(error), "error"), *_KEEP_VIEWS
            return
        shown = run_updates(self.wiring, state, self.about(id))
        yield from self._with_views(shown, state, page, text, kind, answers)
        latest = self.wiring.pages.get(page)
        if latest.run != state.run:
            with suppress(InputError):  # the run was deleted meanwhile
                shown = run_updates(self.wiring, latest, self.about(latest.run), opened=False)
                yield *shown, gr.skip(), *_KEEP_VIEWS

    def on_another_run(self, text: str, kind: str, answers: str, id: str | None, request: gr.Request) -> Values:
        """Open a run that was chosen with the keyboard, unless it is open.

        The list also calls this when it is left without a choice.
        """
        if id == self.wiring.state(request).run:
            yield *(gr.skip(),) * len(self.panel.run_outputs(self.wiring)), gr.skip(), *_KEEP_VIEWS
            return
        yield from self.on_run(text, kind, answers, id, request)

    def on_differs(self, text: str, kind: str, answers: str, request: gr.Request) -> Values:
        """Show the run, the mask and the views again, after an answer to an earlier event has replaced them."""
        page = page_of(request)
        state = self.wiring.pages.change(page, lambda state: state)
        if not state.run:
            yield *(gr.skip(),) * len(self.panel.run_outputs(self.wiring)), gr.skip(), *_KEEP_VIEWS
            return
        shown = run_updates(self.wiring, state, self.about(state.run), opened=False)
        yield from self._with_views(shown, state, page, text, kind, answers)

    def on_site(self, site: str, request: gr.Request) -> tuple[Any, ...]:
        """Show the edits of another site."""
        page = page_of(request)

        def change(state: PageState) -> PageState:
            return replace(state, site=site, saved="", cell=None) if site in state.histories else state

        state = self.wiring.pages.change(page, change)
        return run_updates(self.wiring, state, self.about(state.run), opened=False)


def _link_words(link: str, _: str | None) -> str:
    """Return the message after the link was copied, or with the link if it could not be copied."""
    if link:
        return markup.note(f"The browser does not allow copying; the link to this run with this mask is {link}")
    return markup.note("Copied the link to this run with this mask.", "good")


def with_others(state: PageState, others: list[str] | None, arrangement: str) -> PageState:
    """Return the state with other runs in separate columns, or applied together with the chosen one."""
    chosen = tuple(id for id in others or () if id != state.run)
    return replace(state, others=chosen, on_top=arrangement == ON_TOP)


def _chosen(state: PageState) -> PageState:
    if not state.run:
        raise InputError("Choose a run first.")
    return state


def _views_of(state: PageState) -> tuple[Any, ...]:
    """Return what the views depend on."""
    return state.asked, masks_text(state), state.strength, state.others, state.on_top, state.remote


def _cells(state: PageState) -> list[tuple[int, int]]:
    layers, units = state.mask.shape
    return [(layer, unit) for layer in range(layers) for unit in range(units)]
