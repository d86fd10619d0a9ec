// ---- search: all words must occur in the name, op, type or module of a node ----

class Search {
  constructor() {
    this.input = byId("search");
    this.count = byId("search-count");
    this.found = [];
    this.at = -1;
    this.input.addEventListener("input", () => this.later());
    this.input.addEventListener("keydown", (event) => this.key(event));
    byId("search-next").addEventListener("click", () => this.go(1));
    byId("search-previous").addEventListener("click", () => this.go(-1));
  }

  later() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.run(), 60);
  }

  key(event) {
    if (event.key === "Enter") this.go(event.shiftKey ? -1 : 1);
    else if (event.key === "Escape") this.leave();
    else return;
    event.preventDefault();
  }

  leave() {
    if (this.input.value) {
      this.input.value = "";
      this.run();
    } else this.input.blur();
  }

  /** Find the rows whose node, on either side, holds all words. */
  run() {
    clearTimeout(this.timer);
    this.timer = null;
    const words = this.input.value.toLowerCase().split(/\s+/).filter(Boolean);
    const fits = (node) => node && words.every((word) => haystack(node).includes(word));
    this.found = words.length ? app.graphs.order.filter((row) => !row.module && (fits(row.before) || fits(row.after))) : [];
    this.fits = fits;
    this.at = -1;
    app.matches = new Set(this.found.map((row) => row.order));
    this.say();
    app.graphs.redraw();
  }

  go(step) {
    if (this.timer) this.run();
    if (!this.found.length) return;
    this.at = this.at < 0 ? (step > 0 ? 0 : this.found.length - 1) : (this.at + step + this.found.length) % this.found.length;
    const row = this.found[this.at], side = this.fits(row.after) ? "after" : "before";
    app.showInGraphs({ side, name: row[side].name }, { focus: false });
    this.say();
  }

  say() {
    const total = this.found.length, asked = this.input.value.trim();
    this.count.textContent = !asked ? "" : !total ? "none" : this.at < 0 ? `${total} found` : `${this.at + 1} of ${total}`;
  }
}

function haystack(node) {
  node.text ??= `%${node.name}\n${node.op}\n${node.type}\n${node.path}`.toLowerCase();
  return node.text;
}
