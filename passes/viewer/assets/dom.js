// ---- making elements: texts always become text nodes, never markup ----

const SVG = "http://www.w3.org/2000/svg";

function el(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

const byId = (id) => document.getElementById(id);

const plural = (count, noun, many = noun + "s") => `${count.toLocaleString("en")} ${count === 1 ? noun : many}`;

const signed = (count) => (count > 0 ? `+${count}` : count < 0 ? `\u2212${-count}` : "\u00b10");

function formatBytes(count) {
  let size = count, unit = 0;
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  while (size >= 1024 && unit < units.length - 1) [size, unit] = [size / 1024, unit + 1];
  return unit ? `${size.toFixed(1)} ${units[unit]}` : `${count} B`;
}

function formatMs(ms) {
  return ms >= 1000 ? `${(ms / 1000).toFixed(1)} s` : ms >= 10 ? `${ms.toFixed(0)} ms` : `${ms.toFixed(1)} ms`;
}

/** Text that does something within the page; it breaks over lines as other text does. */
function link(text, follow) {
  const onclick = (event) => {
    event.preventDefault();
    follow();
  };
  return el("a", { class: "link", href: "#", onclick }, text);
}

const nodeLink = (side, name) => link(`%${name}`, () => app.select({ side, name }, { reveal: true }));

/** Arrow keys, Home and End move the focus among elements of a container that match a selector. */
function moveAmong(container, selector, event, { next = "ArrowDown", previous = "ArrowUp" } = {}) {
  const items = [...container.querySelectorAll(selector)];
  const here = items.indexOf(document.activeElement);
  const to = { [next]: here + 1, [previous]: here - 1, Home: 0, End: items.length - 1 }[event.key];
  if (to === undefined || here < 0) return null;
  event.preventDefault();
  const target = items[Math.max(0, Math.min(to, items.length - 1))];
  target.focus();
  return target;
}
