// ---- the graphs side by side: two trees in one scroller, of which only what is visible exists ----

const ROW = 22, SPARE = 8, SIDES = ["before", "after"];

class Graphs {
  constructor(panel) {
    this.heads = { before: el("div", { id: "head-before" }), after: el("div", { id: "head-after" }) };
    this.trees = { before: this.tree("before"), after: this.tree("after") };
    this.sizer = el("div", { class: "sizer" }, this.trees.before, this.trees.after);
    this.scroller = el("div", { class: "scroller", id: "scroller" }, this.sizer);
    panel.classList.add("graphs");
    panel.append(el("div", { class: "graph-heads" }, this.heads.before, this.heads.after), this.scroller);
    this.drawn = { before: new Map(), after: new Map() };
    this.onlyChanges = false;
    this.scroller.addEventListener("scroll", () => this.later(), { passive: true });
    new ResizeObserver(() => this.later()).observe(this.scroller);
  }

  tree(side) {
    return el("div", {
      class: "tree", role: "tree", id: `tree-${side}`, tabindex: "0", "aria-label": `Graph ${side}`,
      "aria-describedby": `head-${side}`,
      onkeydown: (event) => this.key(side, event),
      onclick: (event) => this.click(side, event),
      ondblclick: (event) => this.doubleClick(side, event),
    });
  }

  /** Show a view; modules that were unfolded in the last one stay so. */
  show(view) {
    this.view = view;
    this.root = mergeTrees(view);
    this.rowOf = { before: new Map(), after: new Map() };
    this.moduleRows = { before: new Map(), after: new Map() };
    this.order = [];
    for (const row of allRows(this.root)) this.file(row);
    this.unfolded ??= firstUnfolded(this.root);
    for (const side of SIDES) this.heads[side].replaceChildren(...headline(side, view));
    this.refresh();
  }

  file(row) {
    row.order = this.order.push(row) - 1;
    for (const side of SIDES) {
      if (row.module && row[side]) this.moduleRows[side].set(row.path, row);
      else if (!row.module && row[side]) this.rowOf[side].set(row[side].name, row);
    }
  }

  refresh() {
    this.rows = visibleRows(this.root, this.unfolded, this.onlyChanges);
    this.sizer.style.height = `${this.rows.length * ROW}px`;
    this.redraw();
  }

  /** Draw again from nothing, as the rows or their looks have changed. */
  redraw() {
    for (const side of SIDES) {
      this.trees[side].replaceChildren();
      this.drawn[side].clear();
    }
    this.draw();
  }

  later() {
    this.frame ??= requestAnimationFrame(() => {
      this.frame = null;
      this.draw();
    });
  }

  draw() {
    if (!this.rows) return;
    const first = Math.max(0, Math.floor(this.scroller.scrollTop / ROW) - SPARE);
    const last = Math.min(this.rows.length, Math.ceil((this.scroller.scrollTop + this.scroller.clientHeight) / ROW) + SPARE);
    for (const side of SIDES) this.drawSide(side, first, last);
  }

  drawSide(side, first, last) {
    const drawn = this.drawn[side], active = this.activeRow(side)?.index ?? -1;
    for (const [index, element] of drawn)
      if ((index < first || index >= last) && index !== active) {
        element.remove();
        drawn.delete(index);
      }
    const fresh = document.createDocumentFragment();
    for (let index = first; index < last; index++) this.drawRow(side, index, fresh);
    if (active >= 0) this.drawRow(side, active, fresh);
    this.trees[side].append(fresh);
    const tree = this.trees[side];
    if (active >= 0) tree.setAttribute("aria-activedescendant", `${side}-${active}`);
    else tree.removeAttribute("aria-activedescendant");
  }

  drawRow(side, index, into) {
    const row = this.rows[index];
    if (!row[side] || this.drawn[side].has(index)) return;
    const element = row.module ? this.moduleElement(side, row) : this.nodeElement(side, row);
    element.style.transform = `translateY(${index * ROW}px)`;
    this.drawn[side].set(index, element);
    into.append(element);
  }

  /** What both kinds of rows have: place in the tree, and whether it is selected. */
  rowElement(side, row, classes, content, label, expanded) {
    const selected = this.isSelected(side, row);
    const indent = el("span", { class: "indent" });
    indent.style.width = `${(row.depth - 1) * 14}px`;
    const [mark, ...rest] = content;
    return el("div", {
      class: ["row", ...classes, selected && "selected", this.activeRow(side) === row && "active"].filter(Boolean).join(" "),
      id: `${side}-${row.index}`, role: "treeitem", "aria-level": row.depth, "aria-posinset": row.position[side],
      "aria-setsize": row.siblings[side], "aria-selected": String(selected), "aria-expanded": expanded, "aria-label": label,
      "data-index": row.index,
    }, mark, indent, ...rest);
  }

  moduleElement(side, row) {
    const open = this.unfolded.has(row.path);
    const tally = [
      row.removed > 0 && side === "before" && el("span", { class: "removed" }, `\u2212${row.removed}`),
      row.added > 0 && side === "after" && el("span", { class: "added" }, `+${row.added}`),
      plural(row.counts[side], "node"), row.bytes[side] > 0 && formatBytes(row.bytes[side]),
    ].filter(Boolean);
    const spread = tally.flatMap((part, i) => (i ? ["  ", part] : [part]));
    const label = [row.path || row.label, ...tally.map((part) => part.textContent ?? part)].join(", ");
    return this.rowElement(side, row, ["module"], [
      el("span", { class: "mark" }), el("span", { class: "twisty", "aria-hidden": "true" }, "\u203a"),
      el("span", { class: "name", title: row.path }, row.label), el("span", { class: "tally" }, ...spread),
    ], label, String(open));
  }

  nodeElement(side, row) {
    const node = row[side];
    const state = side === "before" && isGone(row) ? "removed" : side === "after" && isNew(row) ? "added" : row.changed ? "changed" : "";
    const role = app.near[side].get(node.name);
    const sign = { removed: "\u2212", added: "+", changed: "~" }[state] ?? "";
    const mark = role ? { input: "\u2190", user: "\u2192", both: "\u2194" }[role] : sign;
    const classes = [state, role && "near", app.linked[side].has(node.name) && "linked", app.matches.has(row.order) && "match"];
    const label = [node.name, node.call, node.type, state, role && `${role} of the selection`].filter(Boolean).join(", ");
    return this.rowElement(side, row, classes.filter(Boolean), [
      el("span", { class: "mark", title: role ?? state }, mark), el("span", { class: "name" }, `%${node.name}`),
      el("span", { class: "call", title: node.call }, node.call), el("span", { class: "type", title: node.type }, node.type),
      node.bytes > 0 && el("span", { class: "bytes" }, formatBytes(node.bytes)),
    ], label, undefined);
  }

  // ---- selection ----

  isSelected(side, row) {
    const chosen = app.selection;
    if (!chosen) return false;
    if (row.module) return chosen.module === row.path && chosen.side === side;
    return chosen.side === side && row[side].name === chosen.name;
  }

  /** The row of the selection, or on the other side that of its first counterpart, if it is visible. */
  activeRow(side) {
    const chosen = app.selection;
    if (!chosen || !this.rows) return null;
    if (chosen.module !== undefined) return this.shown(this.moduleRows[side].get(chosen.module));
    const name = chosen.side === side ? chosen.name : [...app.linked[side]][0];
    return this.shown(this.rowOf[side].get(name));
  }

  shown(row) {
    return row && this.rows[row.index] === row ? row : null;
  }

  /** Unfold the modules around a node and scroll to it. */
  reveal({ side, name, module }) {
    const row = module === undefined ? this.rowOf[side].get(name) : this.moduleRows[side].get(module);
    if (!row) return;
    let hidden = false;
    for (let up = row.parent; up && up !== this.root; up = up.parent) {
      hidden ||= !this.unfolded.has(up.path);
      this.unfolded.add(up.path);
    }
    if (this.onlyChanges && !hasChange(row)) this.setOnlyChanges(false);
    if (hidden || this.rows[row.index] !== row) this.refresh();
    this.scrollTo(row.index);
  }

  scrollTo(index) {
    const top = index * ROW, { scrollTop, clientHeight } = this.scroller;
    if (top < scrollTop + ROW || top > scrollTop + clientHeight - 2 * ROW)
      this.scroller.scrollTop = Math.max(0, top - clientHeight / 3);
    this.draw();
  }

  choose(side, row) {
    app.select(row.module ? { side, module: row.path } : { side, name: row[side].name });
    this.scrollTo(row.index);
  }

  // ---- folding ----

  fold(row, open) {
    if (open) this.unfolded.add(row.path);
    else this.unfolded.delete(row.path);
    this.refresh();
  }

  foldAll(open) {
    this.unfolded = new Set(open ? this.order.filter((row) => row.module).map((row) => row.path) : []);
    this.refresh();
  }

  setOnlyChanges(on) {
    this.onlyChanges = on;
    byId("only-changes")?.setAttribute("aria-pressed", String(on));
    this.refresh();
  }

  // ---- mouse and keys ----

  rowAt(event) {
    const element = event.target.closest(".row");
    return element && this.rows[Number(element.dataset.index)];
  }

  click(side, event) {
    const row = this.rowAt(event);
    if (!row) return;
    if (event.target.closest(".twisty")) this.fold(row, !this.unfolded.has(row.path));
    this.choose(side, row);
  }

  doubleClick(side, event) {
    const row = this.rowAt(event);
    if (row?.module && !event.target.closest(".twisty")) this.fold(row, !this.unfolded.has(row.path));
  }

  key(side, event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const page = Math.max(1, Math.floor(this.scroller.clientHeight / ROW) - 2);
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity };
    const row = this.activeRow(side);
    if (event.key in steps) this.move(side, row, steps[event.key]);
    else if (event.key === "ArrowRight" && row?.module) this.unfoldOrEnter(side, row);
    else if (event.key === "ArrowLeft" && row) this.foldOrLeave(side, row);
    else if (event.key === "Enter" || event.key === " ") this.enter(side, row);
    else return;
    event.preventDefault();
  }

  /** Go to the row that is `step` rows of this side away. */
  move(side, row, step) {
    const here = this.rows.filter((one) => one[side]);
    const at = row ? here.indexOf(row) : step > 0 ? -1 : 0;
    const target = here[Math.max(0, Math.min(at + step, here.length - 1))];
    if (target) this.choose(side, target);
  }

  unfoldOrEnter(side, row) {
    if (!this.unfolded.has(row.path)) this.fold(row, true);
    else this.move(side, row, 1);
  }

  foldOrLeave(side, row) {
    if (row.module && this.unfolded.has(row.path)) this.fold(row, false);
    else if (row.parent !== this.root) this.choose(side, row.parent);
  }

  /** A module folds or unfolds; from a node, go to what it stands for on the other side. */
  enter(side, row) {
    if (row?.module) this.fold(row, !this.unfolded.has(row.path));
    else if (row) app.jump(side, row[side].name);
  }
}

function headline(side, view) {
  const snapshot = view.snapshot(side);
  const size = snapshot.bytes ? `, ${formatBytes(snapshot.bytes)} of state` : "";
  const name = side === "before" ? "Before" : "After";
  return [el("b", {}, name), ` ${view.label === "All passes" ? "all passes" : view.label} \u00b7 ${plural(snapshot.nodes.length, "node")}${size}`];
}
