// Tools to save the image, the data and the code of a view.
// `element`, `props` and `watch` come from gradio; the view is the nearest `.jw-view` around this component.

const find = (name) => element.querySelector(`.vt-${name}`);
const say = (text) => {
  find("said").textContent = text;
  clearTimeout(say.timer);
  say.timer = setTimeout(() => { find("said").textContent = ""; }, 4000);
};
const value = () => JSON.parse(props.value || "{}");

const show = () => {
  const { csv, code, json } = value();
  find("said").parentElement.hidden = !csv && !code && !json;
  // A view with JSON has only data and no image.
  find("picture").hidden = Boolean(json);
  find("csv").hidden = !csv;
  find("json").hidden = find("copy-json").hidden = !json;
  find("show").hidden = !code;
  find("code").querySelector("pre").textContent = code || "";
};
watch("value", show);
show();

const save = (blob, ending) => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = `${value().name || "view"}.${ending}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
};

// A copy of the node with inline styles, so that it looks the same outside the page.
const styled = (node) => {
  const copy = node.cloneNode(true);
  const originals = [node, ...node.querySelectorAll("*")];
  [copy, ...copy.querySelectorAll("*")].forEach((part, index) => {
    const style = getComputedStyle(originals[index]);
    part.setAttribute("style", Array.from(style, (name) => `${name}:${style.getPropertyValue(name)}`).join(";"));
    for (const name of part.getAttributeNames()) if (name.startsWith("on")) part.removeAttribute(name);
  });
  return copy;
};

const paint = async (node) => {
  const { width, height } = node.getBoundingClientRect();
  const copy = styled(node);
  copy.style.margin = "0";
  copy.setAttribute("xmlns", "http://www.w3.org/1999/xhtml");
  const body = new XMLSerializer().serializeToString(copy);
  const svg = `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}">`
    + `<foreignObject width="100%" height="100%">${body}</foreignObject></svg>`;
  const picture = new Image();
  picture.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(svg)}`;
  await picture.decode();
  const margin = 16;
  const canvas = document.createElement("canvas");
  canvas.width = 2 * (width + 2 * margin);
  canvas.height = 2 * (height + 2 * margin);
  const context = canvas.getContext("2d");
  context.scale(2, 2);
  context.fillStyle = getComputedStyle(document.body).backgroundColor;
  context.fillRect(0, 0, width + 2 * margin, height + 2 * margin);
  context.drawImage(picture, margin, margin);
  return new Promise((done) => canvas.toBlob(done, "image/png"));
};

find("picture").addEventListener("click", async () => {
  const view = element.closest(".jw-view");
  const camera = view?.querySelector(".js-plotly-plot .modebar-btn[data-title*='ownload']");
  if (camera) { camera.click(); say("Saved as a PNG file."); return; }
  const node = view?.querySelector(".jw-picture");
  if (!node) { say("There is no picture to save yet."); return; }
  try {
    save(await paint(node), "png");
    say("Saved as a PNG file.");
  } catch (error) {
    say(`The picture could not be created (${error.message || "unknown reason"}).`);
  }
});

find("csv").addEventListener("click", () => {
  save(new Blob([value().csv], { type: "text/csv;charset=utf-8" }), "csv");
  say("Saved as a CSV file.");
});

find("json").addEventListener("click", () => {
  save(new Blob([value().json], { type: "application/json;charset=utf-8" }), "json");
  say("Saved as a JSON file.");
});

find("copy-json").addEventListener("click", async () => {
  try {
    await navigator.clipboard.writeText(value().json);
    say("Copied.");
  } catch {
    say("The browser does not allow copying; save the file instead.");
  }
});

find("show").addEventListener("click", () => {
  const open = find("code").hidden;
  find("code").hidden = !open;
  find("show").setAttribute("aria-expanded", String(open));
});

find("copy").addEventListener("click", async () => {
  try {
    await navigator.clipboard.writeText(value().code);
    say("Copied.");
  } catch {
    getSelection().selectAllChildren(find("code").querySelector("pre"));
    say("Selected; copy with Ctrl+C.");
  }
});
