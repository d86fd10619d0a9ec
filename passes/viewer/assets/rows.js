// ---- the two graphs as one tree of aligned rows: what both have stands side by side ----

const DEEPEST = 40;

/** The modules and nodes of one snapshot: nested lists in order of first appearance. */
function nest(nodes, keyOf) {
  const root = { path: "", items: new Map() };
  const modules = new Map([["", root]]);
  for (const node of nodes) moduleAt(modules, node.path).items.set(`n ${keyOf(node)}`, node);
  return root;
}

function moduleAt(modules, path) {
  const known = modules.get(path);
  if (known) return known;
  const parts = path.split(".");
  const cut = parts.length > DEEPEST ? path.length - parts.slice(DEEPEST - 1).join(".").length : path.lastIndexOf(".") + 1;
  const parent = moduleAt(modules, path.slice(0, Math.max(0, cut - 1)));
  const made = { path, label: path.slice(cut), items: new Map() };
  modules.set(path, made);
  parent.items.set(`m ${made.label}`, made);
  return made;
}

/** Merge both sides into rows; `removed`, `added` and `changed` count the nodes of a module. */
function mergeTrees(view) {
  const newNames = new Map([...view.renamed].map(([old, name]) => [name, old]));
  const left = nest(view.before.nodes, (node) => node.name);
  const right = nest(view.after.nodes, (node) => newNames.get(node.name) ?? node.name);
  const root = merge(left, right, 0);
  root.depth = 0;
  return root;
}

function merge(left, right, depth) {
  const row = {
    module: true, depth, path: (left ?? right).path, label: (left ?? right).label, before: left !== null, after: right !== null,
    children: [], removed: 0, added: 0, changed: 0, counts: { before: 0, after: 0 }, bytes: { before: 0, after: 0 },
  };
  for (const [a, b, swap] of align(left, right)) {
    const child = (a ?? b).items ? merge(a, b, depth + 1) : leaf(a, b, depth + 1, Boolean(swap));
    child.parent = row;
    row.children.push(child);
    tally(row, child);
  }
  return row.depth > 0 ? shorten(row) : row;
}

/** A row of nodes; in a `swap`, a removed and an added node just stand next to each other. */
function leaf(before, after, depth, swap) {
  const changed = before && after && !swap && before.id !== after.id;
  return { module: false, depth, before, after, swap, changed: changed ? 1 : 0 };
}

function tally(row, child) {
  for (const side of ["before", "after"]) {
    row.counts[side] += child.module ? child.counts[side] : child[side] ? 1 : 0;
    row.bytes[side] += child.module ? child.bytes[side] : child[side]?.bytes ?? 0;
  }
  row.removed += child.module ? child.removed : isGone(child) ? 1 : 0;
  row.added += child.module ? child.added : isNew(child) ? 1 : 0;
  row.changed += child.changed;
}

const isGone = (row) => Boolean(row.before && (row.swap || !row.after));

const isNew = (row) => Boolean(row.after && (row.swap || !row.before));

/** `encoder` that holds nothing but `layer` is one row, `encoder.layer`. */
function shorten(row) {
  const [only] = row.children;
  if (row.children.length !== 1 || !only.module) return row;
  only.label = `${row.label}.${only.label}`;
  lift(only);
  return only;
}

function lift(row) {
  row.depth -= 1;
  if (row.module) row.children.forEach(lift);
}

/** Pairs of items: common ones in an order that both sides have, between them what went and what came. */
function* align(left, right) {
  const a = left ? [...left.items] : [], b = right ? [...right.items] : [];
  const places = new Map(b.map(([key], index) => [key, index]));
  const common = a.flatMap(([key], index) => (places.has(key) ? [[index, places.get(key)]] : []));
  let i = 0, j = 0;
  for (const [atA, atB] of [...increasing(common), [a.length, b.length]]) {
    yield* sideBySide(a.slice(i, atA), b.slice(j, atB));
    if (atA < a.length) yield [a[atA][1], b[atB][1]];
    [i, j] = [atA + 1, atB + 1];
  }
}

function* sideBySide(gone, come) {
  while (gone.length && come.length && !gone[0][1].items && !come[0][1].items)
    yield [gone.shift()[1], come.shift()[1], true];
  for (const [, item] of gone) yield [item, null];
  for (const [, item] of come) yield [null, item];
}

/** The longest run of pairs whose second numbers increase. */
function increasing(pairs) {
  const ends = [], previous = new Array(pairs.length).fill(-1);
  pairs.forEach(([, value], index) => {
    let low = 0, high = ends.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (pairs[ends[middle]][1] < value) low = middle + 1;
      else high = middle;
    }
    previous[index] = low ? ends[low - 1] : -1;
    ends[low] = index;
  });
  const run = [];
  for (let at = ends.at(-1) ?? -1; at >= 0; at = previous[at]) run.push(pairs[at]);
  return run.reverse();
}

const hasChange = (row) =>
  row.module ? row.removed + row.added + row.changed > 0 : isGone(row) || isNew(row) || row.changed > 0;

/** Rows that are visible with the given modules unfolded. */
function visibleRows(root, unfolded, onlyChanges) {
  const rows = [];
  const visit = (row) => {
    const children = onlyChanges ? row.children.filter(hasChange) : row.children;
    const places = { before: 0, after: 0 };
    for (const child of children) {
      child.position = { before: child.before ? ++places.before : 0, after: child.after ? ++places.after : 0 };
      child.siblings = places;
      child.index = rows.push(child) - 1;
      if (child.module && unfolded.has(child.path)) visit(child);
    }
  };
  visit(root);
  return rows;
}

/** All rows in order, folded or not. */
function* allRows(row) {
  for (const child of row.children) {
    yield child;
    if (child.module) yield* allRows(child);
  }
}

/** Modules to unfold at first: as many levels as fit in some screens. */
function firstUnfolded(root, limit = 160) {
  const unfolded = new Set();
  let level = root.children, count = level.length;
  while (level.length) {
    const modules = level.filter((row) => row.module);
    count += modules.reduce((sum, row) => sum + row.children.length, 0);
    if (count > limit) break;
    modules.forEach((row) => unfolded.add(row.path));
    level = modules.flatMap((row) => row.children);
  }
  return unfolded;
}
