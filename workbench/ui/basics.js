/* What the scripts of the views share. It comes first in the body of a gr.HTML's js_on_load: element and trigger are
 * given. */
const find = (selector) => element.querySelector(selector);
const sleep = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));
const isDark = () => document.body.classList.contains("dark") || document.documentElement.classList.contains("dark");
const setText = (node, text) => { if (node.textContent !== text) node.textContent = text; };
const make = (tag, properties = {}, ...children) => {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
};
/* Tell the server that something happened; it also learns whether the page is dark. */
const act = (name, data = {}) => trigger(name, { dark: isDark(), ...data });
