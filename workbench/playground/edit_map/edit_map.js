/* The component: the map and its table, the choice of the color, and the communication with Python.
 *
 * Body of js_on_load of a gr.HTML: element, trigger, props and watch are defined.
 */
const root = element.querySelector(".em");
const find = (selector) => root.querySelector(selector);

const map = new EditMap(find(".gm"), {
  edit: (payload) => trigger("edit", payload),
  card: (payload) => trigger("card", payload),
  undo: (payload) => trigger("undo", payload),
  redo: (payload) => trigger("redo", payload),
  differs: (payload) => trigger("differs", payload),
});
const table = new EditTable(find(".em-rows"), map);
element.editMap = map;

const showLegend = () => {
  const { scale, low, high } = colouring(map.data, map.meaning, map.theme.dark);
  find(".gm-ramp").style.background = `linear-gradient(to right, ${scale.filter((_, index) => index % 15 === 0).join(", ")})`;
  find(".em-low").textContent = low;
  find(".em-high").textContent = high;
};

const showTable = () => {
  if (find(".em-table").open) table.show();
};

map.onChange = () => {
  const effects = Boolean(map.data.effect);
  find(".em-effect").hidden = !effects;
  find(".em-gate").hidden = !map.frame.has_gates;
  for (const input of root.querySelectorAll(".em-modes input")) input.checked = input.value === map.meaning;
  const sum = (what) => map.counts.reduce((total, count) => total + count[what], 0);
  Object.assign(root.dataset, {
    key: map.edits, revision: map.base.revision, pending: map.unanswered.length, meaning: map.meaning,
    on: sum("on"), open: sum("open"), site: map.frame.site,
  });
  showLegend();
  showTable();
};

// Radio buttons are grouped by name, which must differ between maps on a page.
const name = `em-mode-${(window.jolaEditMaps = (window.jolaEditMaps || 0) + 1)}`;
for (const input of root.querySelectorAll(".em-modes input")) {
  input.name = name;
  input.addEventListener("change", () => {
    map.meaning = input.value;
    root.dataset.meaning = map.meaning;
    showLegend();
    map.invalidate();
  });
}
for (const item of root.querySelectorAll(".em-marks li")) {
  const picture = document.createElement("canvas"), density = 2;
  picture.width = picture.height = 14 * density;
  const context = picture.getContext("2d");
  context.scale(density, density);
  drawMark(context, item.dataset.mark, 7, 7, 8);
  picture.setAttribute("aria-hidden", "true");
  item.prepend(picture);
}
new MutationObserver(() => map.data && showLegend()).observe(document.body, { attributes: true, attributeFilter: ["class"] });
find(".em-table").addEventListener("toggle", showTable);

watch("value", () => props.value && map.setValue(props.value));
watch("mask", () => props.mask && map.setMask(props.mask));
if (props.value) map.setValue(props.value);
if (props.mask) map.setMask(props.mask);
