// ---- the data of the page: nodes, snapshots, rewrites, and the views made of them ----

const OTHER = { before: "after", after: "before" };

/** A program at one moment. */
class Snapshot {
  constructor(nodes, bytes) {
    this.nodes = nodes;
    this.bytes = bytes;
    this.byName = new Map(nodes.map((node) => [node.name, node]));
  }

  /** Name -> nodes that use it. */
  get users() {
    if (!this._users) {
      this._users = new Map();
      for (const node of this.nodes)
        for (const input of node.inputs) {
          if (!this._users.has(input)) this._users.set(input, []);
          this._users.get(input).push(node);
        }
    }
    return this._users;
  }
}

/** What is looked at: one pass, or all of them. */
class View {
  constructor(model, passes, label) {
    this.label = label;
    this.passes = passes;
    this.before = model.snapshots[passes.length ? passes[0].before : 0] ?? new Snapshot([], 0);
    this.after = model.snapshots[passes.length ? passes.at(-1).after : 0] ?? this.before;
    this.rewrites = passes.flatMap((pass) => pass.hunks.flatMap((hunk) => hunk.rewrites)).sort((a, b) => a.id - b.id);
    this.misses = passes.flatMap((pass) => pass.misses.map((miss) => ({ ...miss, pass: pass.name }))).sort((a, b) => b.score - a.score);
    this.renamed = new Map(passes.length === 1 ? passes[0].renamed : []);
    this._links = null;
  }

  snapshot(side) {
    return side === "before" ? this.before : this.after;
  }

  get links() {
    this._links ??= new Links(this);
    return this._links;
  }

  /** The node that a selection names, from the snapshot or, for one that came and went, from the rewrites. */
  node(side, name) {
    return this.snapshot(side).byName.get(name);
  }
}

/** Which nodes of one side a node of the other stands for. */
class Links {
  constructor(view) {
    this.view = view;
    this.steps = { before: new Map(), after: new Map() };
    this.removedBy = new Map();
    this.addedBy = new Map();
    for (const [old, name] of view.renamed) this.put(old, [name]);
    for (const rewrite of view.rewrites) this.learn(rewrite);
  }

  /** A value leads to the one that replaced it; a node that was absorbed leads to the results of its site. */
  learn(rewrite) {
    if (rewrite.untracked) return;
    const added = rewrite.added.map((node) => node.name), removed = rewrite.removed.map((node) => node.name);
    const replaced = new Map(rewrite.replaced), results = new Set(replaced.values());
    for (const [old, name] of rewrite.replaced) this.put(old, [name]);
    for (const name of removed) {
      this.removedBy.set(name, rewrite);
      if (!replaced.has(name)) this.put(name, results.size ? [...results] : added);
    }
    for (const name of added) {
      this.addedBy.set(name, rewrite);
      if (!results.has(name)) for (const old of removed) this.putBack(name, old);
    }
  }

  put(old, names) {
    const known = this.steps.before.get(old) ?? [];
    this.steps.before.set(old, [...new Set([...known, ...names])]);
    for (const name of names) this.putBack(name, old);
  }

  putBack(name, old) {
    const known = this.steps.after.get(name) ?? [];
    if (!known.includes(old)) this.steps.after.set(name, [...known, old]);
  }

  /** Names on the other side: the same name if it is there, or what the rewrites made of it, step by step. */
  counterparts(side, name) {
    const there = this.view.snapshot(OTHER[side]).byName;
    if (there.has(name)) return [name];
    const found = new Set(), seen = new Set([name]), queue = [name];
    while (queue.length && seen.size < 500)
      for (const next of this.steps[side].get(queue.shift()) ?? []) {
        if (seen.has(next)) continue;
        seen.add(next);
        if (there.has(next)) found.add(next);
        else queue.push(next);
      }
    return [...found];
  }
}

/** Read the page's JSON: columns become objects, numbers of strings become strings. */
function readModel(raw) {
  const text = raw.strings;
  const names = (ids) => ids.map((id) => text[id]);
  const pairs = (list) => list.map(names);
  const n = raw.nodes;
  const nodes = n.name.map((name, id) => ({
    id, name: text[name], op: text[n.op[id]], call: text[n.call[id]], type: text[n.type[id]], path: text[n.path[id]],
    source: text[n.source[id]], inputs: names(n.inputs[id]), bytes: n.bytes[id],
  }));
  const r = raw.rewrites;
  const rewrites = r.pass.map((pass, id) => ({
    id, pass: text[pass], rule: text[r.rule[id]], site: text[r.site[id]], source: text[r.source[id]],
    removed: r.removed[id].map((i) => nodes[i]), added: r.added[id].map((i) => nodes[i]), replaced: pairs(r.replaced[id]),
  }));
  const snapshots = raw.snapshots.map((one) => new Snapshot(one.nodes.map((i) => nodes[i]), one.bytes));
  const passes = raw.passes.map((pass, index) => ({
    ...pass, index, renamed: pairs(pass.renamed), rewriteCount: 0,
    hunks: pass.hunks.map((hunk) => ({ ...hunk, rewrites: hunk.rewrites.map((i) => rewrites[i]) })),
    misses: pass.misses.map((miss) => ({ ...miss, sites: pairs(miss.sites) })),
  }));
  for (const pass of passes)
    for (const hunk of pass.hunks) {
      for (const rewrite of hunk.rewrites) rewrite.untracked = hunk.untracked;
      if (!hunk.untracked) pass.rewriteCount += hunk.rewrites.length;
    }
  const model = { title: raw.title, sources: raw.sources, snapshots, passes };
  model.views = [new View(model, passes, "All passes"), ...passes.map((pass) => new View(model, [pass], pass.name))];
  return model;
}
