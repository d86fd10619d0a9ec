// ---- the changes: rewrites grouped by shape, each group shown once and expandable to its sites ----

const HUNKS_AT_ONCE = 150, OPEN_AT_FIRST = 12, LINES_OPEN = 60;

function showChanges(panel, view) {
  const list = el("div", { class: "changes", onkeydown: changesKey });
  const items = view.passes.flatMap((pass) => [{ pass }, ...pass.hunks.map((hunk) => ({ pass, hunk }))]);
  const shown = view.passes.length === 1 ? items : items.filter((item) => item.hunk || item.pass.hunks.length || item.pass.state.length);
  let open = OPEN_AT_FIRST;
  const more = (from) => {
    for (const item of shown.slice(from, from + HUNKS_AT_ONCE)) {
      const opened = item.hunk && open > 0 && opensAtFirst(item.hunk);
      open -= opened ? 1 : 0;
      list.append(item.hunk ? hunkElement(item.pass, item.hunk, opened) : passTitle(item.pass));
    }
    const rest = shown.length - from - HUNKS_AT_ONCE;
    if (rest > 0) {
      const button = el("button", { type: "button", class: "more" }, `Show ${Math.min(rest, HUNKS_AT_ONCE)} of ${rest} more`);
      button.addEventListener("click", () => {
        button.remove();
        more(from + HUNKS_AT_ONCE);
      });
      list.append(button);
    }
  };
  more(0);
  if (!shown.some((item) => item.hunk)) list.append(nothingChanged(view));
  panel.replaceChildren(list);
}

function nothingChanged(view) {
  const misses = view.misses.length;
  const see = link(`${plural(misses, "kind")} of near misses`, () => app.showTab("misses"));
  return el("p", { class: "empty" }, `${view.passes.length === 1 ? "This pass" : "The pipeline"} changed nothing. `, misses > 0 && see);
}

function opensAtFirst(hunk) {
  const { removed, added } = hunk.rewrites[0];
  return hunk.untracked || (added.length > 0 && removed.length + added.length > 2 && removed.length + added.length <= LINES_OPEN);
}

function passTitle(pass) {
  const ops = pass.ops.slice(0, 12).map(([op, count]) => el("span", { class: `chip ${count > 0 ? "added" : "removed"}` }, `${op} ${signed(count)}`));
  if (pass.ops.length > 12) ops.push(el("span", { class: "chip" }, `${pass.ops.length - 12} more`));
  const state = pass.state.map((one) =>
    el("div", { class: "state-line" }, one.before && el("span", { class: "removed" }, `\u2212 ${one.name}  ${one.before}  `),
      one.after && el("span", { class: "added" }, `+ ${one.name}  ${one.after}`)));
  return el("section", {}, el("div", { class: "pass-title" }, el("h2", {}, pass.name), ...ops), ...state);
}

function hunkElement(pass, hunk, open) {
  const first = hunk.rewrites[0];
  const sites = hunk.sites.filter(Boolean).slice(0, 3).join(", ") + (hunk.sites.length > 3 ? `, ${hunk.sites.length - 3} more` : "");
  const chips = hunk.untracked ? [el("span", { class: "chip changed" }, "not recorded by any rule")] : [];
  const counts = [
    first.removed.length > 0 && el("span", { class: "removed" }, `\u2212${first.removed.length}`),
    first.added.length > 0 && el("span", { class: "added" }, `+${first.added.length}`),
  ];
  const head = el("button", { type: "button", class: "hunk-head", "aria-expanded": String(open) },
    el("span", { class: "twisty", "aria-hidden": "true" }, "\u203a"), el("span", { class: "rule" }, hunk.rule), ...chips,
    hunk.rewrites.length > 1 && el("span", { class: "times" }, `\u00d7${hunk.rewrites.length}`), ...counts,
    el("span", { class: "sites" }, sites), el("span", { class: "where" }, hunk.source));
  const section = el("section", { class: "hunk", "data-rewrite": first.id }, head);
  section.unfold = (wanted) => unfoldHunk(section, head, hunk, wanted);
  head.addEventListener("click", () => section.unfold(head.getAttribute("aria-expanded") !== "true"));
  section.rewrites = new Set(hunk.rewrites);
  if (open) section.unfold(true);
  return section;
}

function unfoldHunk(section, head, hunk, wanted) {
  head.setAttribute("aria-expanded", String(wanted));
  section.querySelector(".hunk-body")?.remove();
  if (!wanted) return;
  const body = el("div", { class: "hunk-body" }, linesOf(hunk.rewrites[0]));
  if (hunk.rewrites.length > 1) body.append(siteList(hunk));
  section.append(body);
}

/** The other sites of a hunk, each with its own nodes when it is opened. */
function siteList(hunk) {
  const list = el("div", { class: "site-list" });
  const button = el("button", { type: "button", "aria-expanded": "false" }, `All ${hunk.rewrites.length} sites`);
  button.addEventListener("click", () => {
    const open = button.getAttribute("aria-expanded") !== "true";
    button.setAttribute("aria-expanded", String(open));
    list.querySelectorAll(".one-site").forEach((one) => one.remove());
    if (open) list.append(...hunk.rewrites.map(siteElement));
  });
  list.append(button);
  return list;
}

function siteElement(rewrite) {
  const name = rewrite.site || rewrite.removed[0]?.name || rewrite.added[0]?.name || rewrite.rule;
  const head = el("button", { type: "button", class: "site", "aria-expanded": "false" }, el("span", { class: "twisty", "aria-hidden": "true" }, "\u203a"), name);
  const site = el("div", { class: "one-site", "data-site": rewrite.id }, head);
  head.addEventListener("click", () => {
    const open = head.getAttribute("aria-expanded") !== "true";
    head.setAttribute("aria-expanded", String(open));
    if (open) site.append(linesOf(rewrite));
    else site.querySelector(".lines").remove();
    if (open) selectLine(rewrite);
  });
  return site;
}

function selectLine(rewrite) {
  if (rewrite.removed.length) app.select({ side: "before", name: rewrite.removed.at(-1).name });
  else if (rewrite.added.length) app.select({ side: "after", name: rewrite.added.at(-1).name });
}

function linesOf(rewrite) {
  const line = (side, state, sign) => (node) =>
    el("button", {
      type: "button", class: `line ${state}`, tabindex: "-1", "data-side": side, "data-name": node.name, title: "Double-click or Enter: show in the graphs",
      onclick: () => app.select({ side, name: node.name }),
      ondblclick: () => app.showInGraphs({ side, name: node.name }),
    }, el("span", { class: "sign", "aria-label": state }, sign), el("span", { class: "name" }, `%${node.name}`),
      el("span", { class: "type" }, node.type), el("span", { class: "call" }, node.call));
  return el("div", { class: "lines" },
    ...rewrite.removed.map(line("before", "removed", "\u2212")), ...rewrite.added.map(line("after", "added", "+")));
}

/** Arrow keys move among the lines and headings; Enter on a line shows it in the graphs. */
function changesKey(event) {
  const here = document.activeElement;
  if (event.key === "Enter" && here.classList.contains("line")) {
    event.preventDefault();
    app.showInGraphs({ side: here.dataset.side, name: here.dataset.name });
    return;
  }
  const target = moveAmong(event.currentTarget, ".hunk-head, .line, .site, .site-list > button", event);
  if (target?.classList.contains("line")) app.select({ side: target.dataset.side, name: target.dataset.name });
}

function markSelectedLines(panel) {
  const chosen = app.selection;
  for (const line of panel.querySelectorAll(".line")) {
    const selected = chosen?.name === line.dataset.name && chosen.side === line.dataset.side;
    line.classList.toggle("selected", selected);
    if (selected) line.setAttribute("aria-current", "true");
    else line.removeAttribute("aria-current");
  }
}

/** Open the hunk that a rewrite is in and put the focus on it. */
function showRewrite(panel, rewrite) {
  let section;
  while (!(section = [...panel.querySelectorAll(".hunk")].find((one) => one.rewrites.has(rewrite)))) {
    const more = panel.querySelector(".more");
    if (!more) return;
    more.click();
  }
  section.unfold(true);
  section.scrollIntoView({ block: "start" });
  section.querySelector(".hunk-head").focus();
}
