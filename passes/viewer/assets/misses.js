// ---- near misses: the pattern with a caret under the part that failed, the node to blame, and what may help ----

const MISSES_AT_ONCE = 60, PATTERN_WIDTH = 96;

function showMisses(panel, view) {
  const list = el("div", { class: "misses" });
  const more = (from) => {
    list.append(...view.misses.slice(from, from + MISSES_AT_ONCE).map((miss) => missElement(view, miss)));
    const rest = view.misses.length - from - MISSES_AT_ONCE;
    if (rest <= 0) return;
    const button = el("button", { type: "button", class: "more" }, `Show ${Math.min(rest, MISSES_AT_ONCE)} of ${rest} more, further off`);
    button.addEventListener("click", () => {
      button.remove();
      more(from + MISSES_AT_ONCE);
    });
    list.append(button);
  };
  more(0);
  if (!view.misses.length) list.append(el("p", { class: "empty" }, "Nothing came near a match without being one."));
  panel.replaceChildren(list);
}

function missElement(view, miss) {
  const [root, culprit, module, source] = miss.sites[0];
  const count = miss.sites.length;
  return el("article", { class: "miss" },
    el("h3", {}, miss.rule || miss.pass, count > 1 && el("span", { class: "chip" }, `\u00d7${count}`),
      miss.score > 0 && el("span", { class: "muted" }, `${plural(miss.score, "node")} matched`),
      view.passes.length > 1 && miss.rule && el("span", { class: "muted" }, `in ${miss.pass}`)),
    el("p", { class: "reason" }, ...linkified(view, miss.reason)),
    el("p", { class: "at" }, culprit && el("span", {}, "at ", missLink(view, culprit)), root && root !== culprit && el("span", {}, "tried from ", missLink(view, root)),
      module && el("span", { class: "mono" }, module), source && el("span", { class: "mono" }, source)),
    miss.pattern && patternElement(miss.pattern, miss.span),
    miss.hint && el("p", { class: "hint" }, el("b", {}, "Hint: "), ...linkified(view, miss.hint)),
    count > 1 && missSites(view, miss));
}

/** The node that a miss names is one of the program after the pass, if it is still there. */
function missLink(view, name) {
  const side = view.after.byName.has(name) ? "after" : "before";
  return view.node(side, name) ? nodeLink(side, name) : el("span", { class: "mono" }, `%${name}`);
}

/** Text with each `%name` that is a node as a link. */
function linkified(view, text) {
  return text.split(/(%[A-Za-z_]\w*)/).map((part, i) => (i % 2 ? missLink(view, part.slice(1)) : part));
}

function missSites(view, miss) {
  const items = () => miss.sites.map(([root, culprit, module, source]) =>
    el("li", { class: "at" }, missLink(view, culprit || root), el("span", { class: "mono" }, [module, source].filter(Boolean).join("  "))));
  const details = el("details", {}, el("summary", { class: "muted" }, `All ${miss.sites.length} places`));
  details.addEventListener("toggle", () => {
    details.querySelector("ul")?.remove();
    if (details.open) details.append(el("ul", {}, ...items()));
  });
  return details;
}

function patternElement(pattern, [start, end]) {
  const box = el("pre", { tabindex: "0", "aria-label": `Pattern: ${pattern}; this part failed: ${pattern.slice(start, end)}` });
  let caretDrawn = false;
  for (const line of patternLines(pattern)) {
    const from = Math.max(start, line.start), to = Math.min(end, line.end);
    const indent = " ".repeat(line.indent);
    if (from >= to) {
      box.append(`${indent}${pattern.slice(line.start, line.end)}\n`);
      continue;
    }
    box.append(indent + pattern.slice(line.start, from), el("span", { class: "failed" }, pattern.slice(from, to)), pattern.slice(to, line.end) + "\n");
    if (!caretDrawn) {
      const shown = pattern.slice(from, to).trimEnd().length || 1;
      box.append(el("span", { class: "caret", "aria-hidden": "true" }, " ".repeat(line.indent + from - line.start) + "^".repeat(shown)), "\n");
      caretDrawn = true;
    }
  }
  requestAnimationFrame(() => (box.scrollTop = (box.querySelector(".caret")?.offsetTop ?? 0) - box.offsetTop - 60));
  return box;
}

/** A pattern as lines of bounded width: what does not fit in one is broken at the commas and bars of its brackets. */
function patternLines(pattern) {
  const closing = matching(pattern), lines = [];
  const put = (start, end, indent) => {
    const open = firstBracket(pattern, closing, start, end);
    if (end - start + indent <= PATTERN_WIDTH || open < 0 || indent > 60) {
      lines.push({ start, end, indent });
      return;
    }
    lines.push({ start, end: open + 1, indent });
    for (const [from, to] of partsOf(pattern, closing, open + 1, closing.get(open))) put(from, to, indent + 2);
    const after = closing.get(open);
    put(after, end, indent);
  };
  put(0, pattern.length, 0);
  return lines;
}

const BRACKETS = { "(": ")", "[": "]", "{": "}" };

/** Position of each opening bracket -> that of its closing one. */
function matching(text) {
  const pairs = new Map(), open = [];
  for (let i = 0; i < text.length; i++) {
    if (text[i] in BRACKETS) open.push(i);
    else if (open.length && text[i] === BRACKETS[text[open.at(-1)]]) pairs.set(open.pop(), i);
  }
  return pairs;
}

/** The first bracket of a part that is worth breaking. */
function firstBracket(text, closing, start, end) {
  for (let i = start + 1; i < end; i++) {
    if (!closing.has(i)) continue;
    if (closing.get(i) - i > 24 && closing.get(i) < end) return i;
    i = closing.get(i);
  }
  return -1;
}

function partsOf(text, closing, start, end) {
  const parts = [];
  let from = start;
  for (let i = start; i < end; i++) {
    if (closing.has(i)) i = closing.get(i);
    else if (text[i] === "," || (text[i] === "|" && text[i + 1] === " ")) {
      parts.push([from, i + 1]);
      from = text[i + 1] === " " ? i + 2 : i + 1;
    }
  }
  if (from < end) parts.push([from, end]);
  return parts;
}
