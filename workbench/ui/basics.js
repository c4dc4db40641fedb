/* Shared by the scripts of all views. First part of the body of js_on_load of a gr.HTML: element and trigger are
 * defined. */
const find = (selector) => element.querySelector(selector);
const sleep = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));
const isDark = () => document.body.classList.contains("dark") || document.documentElement.classList.contains("dark");
const setText = (node, text) => { if (node.textContent !== text) node.textContent = text; };
const make = (tag, properties = {}, ...children) => {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
};
/* Send an event to the server, with whether the page is dark. */
const act = (name, data = {}) => trigger(name, { dark: isDark(), ...data });
