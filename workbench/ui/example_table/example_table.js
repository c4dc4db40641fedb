/* Turns clicks on the rows of a table of examples and on the cells of a matrix into events.
 *
 * Body of js_on_load of a gr.HTML: element and trigger are defined.
 */
element.addEventListener("click", (event) => {
  const cell = event.target.closest("[data-row]");
  if (cell) {
    trigger("cell", { row: Number(cell.dataset.row), column: Number(cell.dataset.column) });
    return;
  }
  const row = event.target.closest("tr[data-number]");
  if (row && !String(getSelection())) trigger("open", { number: Number(row.dataset.number) });
});
