// ---- the dock: what the selected node is, what is around it, and the source line it came from ----

function showDetails(view) {
  const chosen = app.selection;
  const node = chosen && chosen.name !== undefined ? app.nodeOf(chosen) : null;
  byId("details").replaceChildren(...(node ? nodeDetails(view, chosen.side, node) : chosen?.module !== undefined ? moduleDetails(chosen) : nothingSelected()));
  byId("around").replaceChildren(...(node ? [neighbourhood(view, chosen.side, node)] : []));
  showSource(node?.source ?? "");
}

const nothingSelected = () => [el("p", { class: "empty" }, "Select a node to see its arguments, its users and the line of the model it came from.")];

const entry = (name, ...values) => [el("dt", {}, name), el("dd", {}, ...values)];

function nodeDetails(view, side, node) {
  const { removedBy, addedBy } = view.links;
  const type = typeParts(node.type), there = app.view.node(side, node.name);
  const state = side === "before" && removedBy.has(node.name) && !view.after.byName.has(node.name) ? "removed"
    : side === "after" && addedBy.has(node.name) && !view.before.byName.has(node.name) ? "added" : "";
  const users = there ? view.snapshot(side).users.get(node.name) ?? [] : [];
  const rewrite = side === "before" ? removedBy.get(node.name) : addedBy.get(node.name);
  const others = view.links.counterparts(side, node.name).filter((name) => name !== node.name);
  return [
    el("h2", {}, `%${node.name}`, state && el("span", { class: `chip ${state}` }, state), el("span", { class: "chip" }, side)),
    el("dl", {}, ...[
      entry("does", ...callParts(side, node)),
      node.type && entry("type", type.sizes ? `${type.element} [${type.sizes.join(", ")}]` : node.type),
      node.bytes > 0 && entry("state", `${formatBytes(node.bytes)} (${node.bytes.toLocaleString("en")} bytes)`),
      entry("module", node.path ? moduleLink(side, node.path) : el("span", { class: "plain muted" }, "the model itself")),
      rewrite && entry(side === "before" ? "removed by" : "added by", rewriteLink(rewrite)),
      others.length > 0 && entry(side === "before" ? "now" : "before", nodeList(OTHER[side], others.map((name) => view.node(OTHER[side], name)))),
      entry(plural(node.inputs.length, "input"), nodeList(side, node.inputs.map((name) => view.node(side, name) ?? { name, type: "" }))),
      entry(plural(users.length, "user"), nodeList(side, users)),
      !there && entry("note", el("span", { class: "plain" }, "made and removed again within the pass")),
    ].filter(Boolean).flat()),
  ];
}

/** Element type and sizes of `f32[batch,12]`. */
function typeParts(text) {
  const found = /^(\w+)\[([^[\]]*)\]$/.exec(text);
  return found ? { element: found[1], sizes: found[2] ? found[2].split(",") : ["scalar"] } : {};
}

/** The call with each node among its arguments as a link. */
function callParts(side, node) {
  const inputs = new Set(node.inputs);
  return node.call.split(/(%[A-Za-z_]\w*)/).map((part, i) =>
    i % 2 && inputs.has(part.slice(1)) ? nodeLink(side, part.slice(1)) : part);
}

function nodeList(side, nodes, limit = 40) {
  if (!nodes.length) return el("span", { class: "plain muted" }, "none");
  const items = nodes.slice(0, limit).map((node) => el("li", {}, nodeLink(side, node.name), el("span", { class: "muted" }, node.type)));
  if (nodes.length > limit) items.push(el("li", { class: "muted" }, `and ${nodes.length - limit} more`));
  return el("ul", {}, ...items);
}

const moduleLink = (side, path) => link(path, () => app.showInGraphs({ side, module: path }));

const rewriteLink = (rewrite) => link(`${rewrite.rule} of ${rewrite.pass}`, () => app.showRewrite(rewrite));

function moduleDetails({ side, module }) {
  const row = app.graphs.moduleRows[side].get(module) ?? app.graphs.moduleRows[OTHER[side]].get(module);
  if (!row) return nothingSelected();
  return [
    el("h2", {}, module, el("span", { class: "chip" }, "module")),
    el("dl", {}, ...entry("nodes", `${row.counts.before} \u2192 ${row.counts.after}`),
      ...entry("changes", el("span", { class: "removed" }, `\u2212${row.removed}`), "  ", el("span", { class: "added" }, `+${row.added}`), `  ~${row.changed}`),
      ...entry("state", `${formatBytes(row.bytes.before)} \u2192 ${formatBytes(row.bytes.after)}`)),
  ];
}

// ---- the picture of inputs, node and users ----

const BOX = { height: 34, gap: 8, between: 30, most: 6 };

function neighbourhood(view, side, node) {
  const snapshot = view.snapshot(side);
  const inputs = node.inputs.map((name) => snapshot.byName.get(name) ?? { name, type: "" });
  const users = snapshot.byName.has(node.name) ? snapshot.users.get(node.name) ?? [] : [];
  const rows = Math.max(1, Math.min(inputs.length, BOX.most + 1), Math.min(users.length, BOX.most + 1));
  const height = rows * (BOX.height + BOX.gap) + BOX.gap, width = Math.max(300, byId("around").clientWidth - 12);
  BOX.width = (width - 2 * BOX.between) / 3;
  const picture = svg("svg", { width, height, role: "group", "aria-label": `${plural(inputs.length, "input")} and ${plural(users.length, "user")} of ${node.name}` });
  const middle = height / 2, center = BOX.width + BOX.between;
  for (const [nodes, x, isInput] of [[inputs, 0, true], [users, 2 * center, false]]) {
    const shown = nodes.slice(0, nodes.length > BOX.most + 1 ? BOX.most : BOX.most + 1), more = nodes.length - shown.length;
    const count = shown.length + (more ? 1 : 0);
    const top = middle - (count * (BOX.height + BOX.gap) - BOX.gap) / 2;
    shown.forEach((other, i) => {
      const y = top + i * (BOX.height + BOX.gap);
      picture.append(...edge(isInput ? BOX.width : center + BOX.width, isInput ? y + BOX.height / 2 : middle, isInput ? center : x, isInput ? middle : y + BOX.height / 2), box(side, other, x, y));
    });
    if (more) picture.append(svg("text", { x: x + 4, y: top + shown.length * (BOX.height + BOX.gap) + 16, class: "sub" }, `and ${more} more`));
  }
  const here = svg("g", { class: "center" }, ...boxParts(node, center, middle - BOX.height / 2));
  picture.append(here);
  return picture;
}

function box(side, node, x, y) {
  const choose = () => app.select({ side, name: node.name }, { reveal: true });
  return svg("g", {
    role: "button", tabindex: "0", "aria-label": `${node.name} ${node.type}`, onclick: choose,
    onkeydown: (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      choose();
    },
  }, ...boxParts(node, x, y));
}

function boxParts(node, x, y) {
  const letters = Math.floor((BOX.width - 14) / 6.7);
  return [
    svg("title", {}, `%${node.name}  ${node.type}`), svg("rect", { x: x + 0.5, y: y + 0.5, width: BOX.width - 1, height: BOX.height - 1, rx: 5 }),
    svg("text", { x: x + 7, y: y + 14 }, clip(node.name, letters)), svg("text", { x: x + 7, y: y + 27, class: "sub" }, clip(node.type || "\u2013", letters, 0)),
  ];
}

/** Text cut to a length, its last `tail` letters kept: names differ at the end. */
function clip(text, length, tail = Math.floor(length / 2)) {
  return text.length > length ? `${text.slice(0, length - 1 - tail)}\u2026${text.slice(text.length - tail)}` : text;
}

function edge(x1, y1, x2, y2) {
  const bend = (x2 - x1) / 2;
  return [
    svg("path", { d: `M${x1},${y1} C${x1 + bend},${y1} ${x2 - bend},${y2} ${x2 - 5},${y2}` }),
    svg("path", { class: "head", d: `M${x2 - 6},${y2 - 3.5} L${x2},${y2} L${x2 - 6},${y2 + 3.5} Z` }),
  ];
}

// ---- source ----

function showSource(name) {
  const pane = byId("source"), place = app.model.sources.places[name];
  if (!Object.hasOwn(app.model.sources.places, name)) {
    pane.replaceChildren(el("p", { class: "file" }, name || "Source"), el("p", { class: "empty" }, name ? "This source file could not be read when the page was made." : "No line of the model is known to have made this."));
    return;
  }
  const { file, lines } = app.model.sources.files[place[0]], here = place[1];
  const numbers = [];
  for (let number = here - 8; number <= here + 8; number++) if (Object.hasOwn(lines, number)) numbers.push(number);
  const margin = Math.min(...numbers.filter((number) => lines[number].trim()).map((number) => lines[number].search(/\S/)));
  const items = numbers.map((number) =>
    el("li", { "data-line": number, class: number === here && "here", "aria-current": number === here && "true" }, lines[number].slice(margin) || " "));
  pane.replaceChildren(el("p", { class: "file" }, `${file}:${here}`), el("ol", {}, ...items));
  const line = pane.querySelector(".here");
  pane.scrollTop = Math.max(0, line.offsetTop - pane.clientHeight / 2);
}
