// ---- the page: what is looked at, what is selected, and the parts that show it ----

const TABS = [["changes", "Changes"], ["graphs", "Graphs"], ["misses", "Near misses"]];

class App {
  constructor(model) {
    this.model = model;
    this.view = model.views[0];
    this.selection = null;
    this.linked = { before: new Set(), after: new Set() };
    this.near = { before: new Map(), after: new Map() };
    this.matches = new Set();
    this.stale = new Set();
  }

  start() {
    byId("title").textContent = this.model.title;
    this.panels = Object.fromEntries(TABS.map(([id, label]) =>
      [id, el("div", { class: "panel", role: "tabpanel", id: `panel-${id}`, "aria-labelledby": `tab-${id}`, hidden: true })]));
    byId("panels").append(...Object.values(this.panels));
    this.graphs = new Graphs(this.panels.graphs);
    this.search = new Search();
    showTabs();
    showPasses(this.model);
    showTools();
    prepareTheme();
    prepareSplitter();
    document.addEventListener("keydown", pageKey);
    this.showTab("changes");
    this.show(0);
  }

  /** Look at all passes (0) or at one. */
  show(index) {
    this.view = this.model.views[index];
    for (const button of document.querySelectorAll(".pass")) button.setAttribute("aria-current", String(Number(button.dataset.view) === index));
    byId("summary").textContent = summaryOf(this.view);
    countTabs(this.view);
    this.selection = null;
    this.stale = new Set(TABS.map(([id]) => id));
    this.graphs.show(this.view);
    if (this.search.input.value) this.search.run();
    this.select(firstChange(this.view), { quiet: true });
    this.freshen();
  }

  /** Draw the tab that is shown, if what it shows has changed. */
  freshen() {
    if (!this.stale.delete(this.tab)) return;
    if (this.tab === "changes") showChanges(this.panels.changes, this.view);
    if (this.tab === "misses") showMisses(this.panels.misses, this.view);
    if (this.tab === "graphs" && this.selection) this.graphs.reveal(this.selection);
    markSelectedLines(this.panels.changes);
  }

  showTab(id) {
    this.tab = id;
    for (const [name] of TABS) {
      this.panels[name].hidden = name !== id;
      byId(`tab-${name}`).setAttribute("aria-selected", String(name === id));
      byId(`tab-${name}`).tabIndex = name === id ? 0 : -1;
    }
    byId("tools").hidden = id !== "graphs";
    if (id === "graphs") this.graphs.draw();
    this.freshen();
  }

  /** Select a node or module; its counterparts on the other side, inputs and users are marked. */
  select(chosen, { reveal = false, quiet = false } = {}) {
    this.selection = chosen;
    this.linked = { before: new Set(), after: new Set() };
    this.near = { before: new Map(), after: new Map() };
    if (chosen?.name !== undefined) {
      const other = OTHER[chosen.side];
      this.linked[other] = new Set(this.view.links.counterparts(chosen.side, chosen.name));
      this.mark(chosen.side, chosen.name);
      if (this.linked[other].size === 1) this.mark(other, [...this.linked[other]][0]);
    }
    this.graphs.redraw();
    if (reveal && this.tab === "graphs") this.graphs.reveal(chosen);
    else if (chosen) this.stale.add("graphs");
    if (this.tab === "graphs") this.stale.delete("graphs");
    markSelectedLines(this.panels.changes);
    showDetails(this.view);
    if (chosen && !quiet) byId("status").textContent = this.spoken(chosen);
  }

  mark(side, name) {
    const snapshot = this.view.snapshot(side), node = snapshot.byName.get(name);
    for (const input of node?.inputs ?? []) this.near[side].set(input, "input");
    for (const user of (node && snapshot.users.get(name)) ?? []) this.near[side].set(user.name, this.near[side].has(user.name) ? "both" : "user");
  }

  spoken({ side, name, module }) {
    const others = name === undefined ? [] : [...this.linked[OTHER[side]]];
    return name === undefined ? `module ${module}` : `${name} ${side}; ${OTHER[side]}: ${others.join(", ") || "nothing"}`;
  }

  /** The node that a selection names, wherever it is still known. */
  nodeOf({ side, name }) {
    const known = this.view.node(side, name);
    if (known) return known;
    for (const rewrite of this.view.rewrites)
      for (const node of side === "before" ? rewrite.removed : rewrite.added) if (node.name === name) return node;
    return null;
  }

  showInGraphs(chosen, { focus = true } = {}) {
    this.select(chosen);
    this.showTab("graphs");
    this.graphs.reveal(chosen);
    if (focus) this.graphs.trees[chosen.side].focus({ preventScroll: true });
  }

  /** Go to what a node stands for on the other side. */
  jump(side, name) {
    const [there] = this.view.links.counterparts(side, name);
    if (there !== undefined) this.showInGraphs({ side: OTHER[side], name: there });
  }

  showRewrite(rewrite) {
    this.showTab("changes");
    showRewrite(this.panels.changes, rewrite);
    markSelectedLines(this.panels.changes);
  }

  /** Select the next or previous change of the graphs. */
  nextChange(step) {
    const changes = this.graphs.order.filter((row) => !row.module && hasChange(row));
    if (!changes.length) return;
    const chosen = this.selection;
    const row = chosen?.name !== undefined ? this.graphs.rowOf[chosen.side].get(chosen.name) : null;
    const at = row ? row.order : -1;
    const next = step > 0 ? changes.find((one) => one.order > at) ?? changes[0] : changes.findLast((one) => one.order < at) ?? changes.at(-1);
    const side = next.before ? "before" : "after";
    this.showInGraphs({ side, name: next[side].name });
  }
}

/** The result of the largest recorded rewrite: what the pass is about. */
function firstChange(view) {
  let best = null;
  for (const rewrite of view.rewrites) {
    const here = !rewrite.untracked && rewrite.removed.some((node) => view.before.byName.has(node.name));
    if (here && (!best || rewrite.removed.length + rewrite.added.length > best.removed.length + best.added.length)) best = rewrite;
  }
  if (best) return { side: "before", name: best.removed.findLast((node) => view.before.byName.has(node.name)).name };
  return view.before.nodes.length ? { side: "before", name: view.before.nodes[0].name } : null;
}

function summaryOf(view) {
  const [before, after] = [view.before.nodes.length, view.after.nodes.length];
  const rewrites = view.passes.reduce((sum, pass) => sum + pass.rewriteCount, 0);
  const ms = view.passes.reduce((sum, pass) => sum + pass.ms, 0);
  const [was, is] = [formatBytes(view.before.bytes), formatBytes(view.after.bytes)];
  const state = was === is ? "" : ` \u00b7 state ${was} \u2192 ${is}`;
  return `${before} \u2192 ${plural(after, "node")} \u00b7 ${plural(rewrites, "rewrite")} \u00b7 ${formatMs(ms)}${state}`;
}

function showPasses(model) {
  const list = byId("passes");
  list.append(...model.views.map((view, index) => el("li", {}, passButton(view, index))));
  list.addEventListener("keydown", (event) => moveAmong(list, ".pass", event));
}

function passButton(view, index) {
  const rewrites = view.passes.reduce((sum, pass) => sum + pass.rewriteCount, 0);
  const delta = view.after.nodes.length - view.before.nodes.length;
  const numerics = view.passes.map((pass) => pass.numerics).filter((value) => value !== null).at(-1);
  const idle = view.passes.every((pass) => !pass.hunks.length);
  return el("button", { type: "button", class: idle ? "pass idle" : "pass", "data-view": index, onclick: () => app.show(index) },
    el("span", { class: "name" }, index ? `${index} ${view.label}` : view.label),
    el("span", { class: "facts" }, plural(rewrites, "rewrite"),
      el("span", { title: "nodes", class: delta < 0 ? "removed" : delta > 0 ? "added" : undefined }, `${signed(delta)} nodes`),
      el("span", { class: "time" }, formatMs(view.passes.reduce((sum, pass) => sum + pass.ms, 0)))),
    numerics !== undefined && el("span", { class: "facts", title: "largest difference from the original's results" }, `largest difference ${numerics}`));
}

function showTabs() {
  const list = byId("tabs");
  list.append(...TABS.map(([id, label]) => el("button", {
    type: "button", role: "tab", id: `tab-${id}`, "aria-controls": `panel-${id}`, onclick: () => app.showTab(id),
  }, label, el("span", { class: "count" }))));
  list.addEventListener("keydown", (event) => moveAmong(list, "[role=tab]", event, { next: "ArrowRight", previous: "ArrowLeft" })?.click());
}

function countTabs(view) {
  const hunks = view.passes.reduce((sum, pass) => sum + pass.hunks.length, 0);
  const counts = { changes: hunks, graphs: view.after.nodes.length, misses: view.misses.length };
  for (const [id, count] of Object.entries(counts)) byId(`tab-${id}`).querySelector(".count").textContent = count.toLocaleString("en");
}

function showTools() {
  const tool = (label, onclick, attributes = {}) => el("button", { type: "button", onclick, ...attributes }, label);
  byId("tools").append(
    tool("Only changes", () => app.graphs.setOnlyChanges(!app.graphs.onlyChanges), { id: "only-changes", "aria-pressed": "false" }),
    tool("Previous change", () => app.nextChange(-1), { "aria-keyshortcuts": "p" }), tool("Next change", () => app.nextChange(1), { "aria-keyshortcuts": "n" }),
    tool("Unfold all", () => app.graphs.foldAll(true), { id: "unfold-all" }), tool("Fold all", () => app.graphs.foldAll(false)));
}

/** Keys that work everywhere but in a text field. */
function pageKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, textarea")) return;
  const tab = TABS[Number(event.key) - 1];
  if (event.key === "/") byId("search").select(), byId("search").focus();
  else if (tab) app.showTab(tab[0]);
  else if (event.key === "n" || event.key === "p") app.nextChange(event.key === "n" ? 1 : -1);
  else return;
  event.preventDefault();
}

function prepareTheme() {
  const root = document.documentElement;
  const set = (theme) => root.setAttribute("data-theme", theme);
  try {
    const kept = localStorage.getItem("graphwright-theme");
    if (kept === "light" || kept === "dark") set(kept);
  } catch { /* some browsers keep nothing for files */ }
  byId("theme").addEventListener("click", () => {
    const system = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
    const next = (root.getAttribute("data-theme") ?? system) === "dark" ? "light" : "dark";
    set(next);
    try {
      localStorage.setItem("graphwright-theme", next);
    } catch { /* as above */ }
  });
}

function prepareSplitter() {
  const bar = byId("splitter"), dock = byId("dock");
  const set = (height) => {
    const wanted = Math.max(80, Math.min(height, window.innerHeight * 0.7));
    dock.style.height = `${wanted}px`;
    bar.setAttribute("aria-valuenow", String(Math.round(wanted)));
  };
  bar.setAttribute("aria-valuemin", "80");
  set(dock.getBoundingClientRect().height);
  bar.addEventListener("pointerdown", (event) => {
    bar.setPointerCapture(event.pointerId);
    const base = dock.getBoundingClientRect().height + event.clientY;
    const move = (moved) => set(base - moved.clientY);
    bar.addEventListener("pointermove", move);
    bar.addEventListener("lostpointercapture", () => bar.removeEventListener("pointermove", move), { once: true });
  });
  bar.addEventListener("keydown", (event) => {
    const step = { ArrowUp: 24, ArrowDown: -24 }[event.key];
    if (!step) return;
    event.preventDefault();
    set(dock.getBoundingClientRect().height + step);
  });
}

const app = new App(readModel(JSON.parse(byId("data").textContent)));
app.start();
requestAnimationFrame(() => {
  document.documentElement.dataset.ready = "true";
  window.graphwrightReady = performance.now();
});
