"use strict";
// The table of a set of threats: sorting, filtering, columns, and the choice of threats.

const MASKED = "gradients are masked, or may be: a stronger attack may find more";
const MAX_THREATS = 30; // a bit each
const MAX_ROWS = 100; // shown at first, as board.css has it: to lay out 500 rows takes a browser a second

// Writes a share into a cell, as robench/leaderboard/pages.py does.
function fillCell(cell, { share, interval, open, measured, masked }) {
  cell.replaceChildren();
  cell.removeAttribute("title");
  cell.dataset.value = measured ? share : -1;
  cell.toggleAttribute("data-bound", measured && open > 0);
  if (!measured) {
    cell.textContent = "not measured";
    return;
  }
  cell.append((open ? "≤ " : "") + percent(share));
  if (masked) cell.append(element("span", "†", { class: "mark", title: MASKED }));
  const [low, high] = interval.map(percent);
  const range = element("span", `${low}–${high}`, { class: "ci" });
  range.style.setProperty("--low", low);
  range.style.setProperty("--high", high);
  cell.append(range);
}

function empty(cell) {
  cell.textContent = "–";
  cell.dataset.value = -1;
  cell.removeAttribute("data-bound");
  cell.removeAttribute("title");
}

class BoardTable {
  constructor(board, section) {
    this.board = board;
    this.id = section.dataset.table;
    this.table = board.tables[this.id];
    this.section = section;
    this.body = section.querySelector("tbody");
    this.rows = [...this.body.rows];
    this.published = [...section.querySelectorAll("tbody.claimed tr:has(td)")];
    this.made = new Map(); // what changed cells were
    this.faded = new Set(); // places of threats that are not ticked
    this.applied = String([...this.table.threats.keys()]); // the places that union and average are over
    this.prepared = new Map(); // counts of each model, once they are needed
    this.radius = new Radius(this);
    this.comparison = new Comparison(this);
    section.querySelector(".controls").hidden = this.table.threats.length > MAX_THREATS;
    section.querySelector(".filter").addEventListener("input", () => this.filter());
    this.heads();
    this.columns();
    this.boxes(".tick", () => this.choose());
    this.boxes(".compare", () => this.comparison.show());
    this.limit();
    this.filter();
  }

  // Applies ticks and texts that the browser restored, without an event, when the page is visited again.
  restored() {
    this.filter();
    if (String(this.chosen) === this.applied) this.comparison.show();
    else this.choose();
  }

  limit() {
    const count = this.rows.length;
    if (count <= MAX_ROWS) return;
    const button = element("button", `Show all ${count} models`, { type: "button", class: "more" });
    button.addEventListener("click", () => {
      this.section.classList.add("all");
      button.remove();
    });
    this.section.querySelector(".main").after(button);
  }

  boxes(selector, changed) {
    for (const box of this.section.querySelectorAll(selector)) {
      box.hidden = false;
      box.addEventListener("change", changed);
    }
  }

  get chosen() {
    return [...this.section.querySelectorAll(".tick:checked")].map((box) => Number(box.value));
  }

  get visible() {
    return this.rows.filter((row) => !row.hidden);
  }

  model(row) {
    return this.table.models[row.dataset.model];
  }

  heads() {
    for (const head of this.section.querySelectorAll("thead th:not(.pick)")) {
      const button = element("button", head.textContent.trim(), { type: "button" });
      head.replaceChildren(button);
      button.addEventListener("click", () => {
        const first = head.dataset.kind === "text" ? "ascending" : "descending";
        const now = head.getAttribute("aria-sort");
        const order = !now ? first : now === "ascending" ? "descending" : "ascending";
        for (const other of this.section.querySelectorAll("th[aria-sort]")) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", order);
        this.sort();
      });
    }
  }

  sort() {
    const head = this.section.querySelector("th[aria-sort]");
    const data = (row) => row.cells[head.cellIndex].dataset;
    const value = (row) => data(row).value;
    // What is not known comes below upper bounds, and these below accuracies, as they may still decrease.
    const kind = (row) => (Number(value(row)) < 0 ? 0 : data(row).bound === undefined ? 2 : 1);
    const number = (a, b) => kind(a) - kind(b) || Number(value(a)) - Number(value(b));
    const sign = head.getAttribute("aria-sort") === "ascending" ? 1 : -1;
    const text = head.dataset.kind === "text";
    const order = (a, b) => (text ? value(a).localeCompare(value(b), "en") : number(a, b));
    this.rows.sort((a, b) => sign * order(a, b));
    this.body.append(...this.rows);
  }

  columns() {
    const table = this.section.querySelector(".main table");
    for (const box of this.section.querySelectorAll(".column")) {
      const show = () => table.classList.toggle(`no-${box.value}`, !box.checked);
      box.addEventListener("change", show);
      show();
    }
  }

  filter() {
    const text = this.section.querySelector(".filter").value.trim().toLowerCase();
    if (text !== (this.filtered ?? "")) {
      this.filtered = text;
      for (const row of this.rows) row.hidden = !row.querySelector("th").dataset.value.toLowerCase().includes(text);
      const count = text ? `${this.visible.length} of ${this.rows.length} models` : "";
      this.section.querySelector(".found").textContent = count;
    }
    this.radius.allow();
  }

  // Shows union and average over the ticked threats, and every threat within its radius.
  choose() {
    const { chosen, table } = this;
    this.applied = String(chosen);
    const whole = chosen.length === table.threats.length && !this.radius.moved;
    for (const row of this.rows) this.show(row, chosen, whole);
    for (const row of this.published) this.showPublished(row, whole);
    for (const place of table.threats.keys()) {
      this.fade(place, !chosen.includes(place));
      this.section.querySelector(`thead .t${place} button`).textContent = this.radius.name(place);
    }
    const names = chosen.map((place) => this.radius.name(place)).join(", ");
    let sentence = whole ? "" : `Union and average are over ${names}; the best are not marked.`;
    if (!chosen.length) sentence = "Tick at least one threat.";
    this.section.querySelector(".chosen").textContent = sentence;
    if (this.section.querySelector("th.chosen-over[aria-sort], th.number[class*=' t'][aria-sort]")) this.sort();
    this.comparison.show();
  }

  // Counts of a model: as the page's data have them, or within the radii that the reader chose; null if these are not
  // there yet.
  counts(id) {
    if (this.radius.moved) return this.radius.counts(id);
    if (!this.prepared.has(id)) {
      const { stands, held } = this.table.models[id];
      const S = parseSets(stands);
      this.prepared.set(id, prepare({ S, SO: held ? parseSets(held) : S }, this.table.threats.length));
    }
    return this.prepared.get(id);
  }

  show(row, chosen, whole) {
    const [union, average, other] = [".union", ".average", ".protocol-union"].map((name) => row.querySelector(name));
    const places = [...this.table.threats.keys()];
    const threats = places.map((place) => row.querySelector(`.threat.t${place}`));
    for (const [place, cell] of threats.entries()) if (whole || !this.radius.moves(place)) this.restore(cell);
    if (whole) {
      for (const cell of [union, average, other]) this.restore(cell);
      return;
    }
    for (const cell of [union, average, other]) this.keep(cell);
    empty(other);
    const counts = this.counts(row.dataset.model);
    const model = this.model(row);
    const fill = (cell, share, interval, open, at, all) => {
      const measured = at.map((place) => model.measured[place] === "1");
      const masked = at.some((place) => model.masked[place] === "1");
      fillCell(cell, { share, interval, open, measured: all ? measured.every(Boolean) : measured.some(Boolean), masked });
    };
    for (const place of places.filter((at) => this.radius.moves(at))) {
      this.keep(threats[place]);
      if (!counts) empty(threats[place]);
      else fill(threats[place], ...single(counts, place), [place], true);
    }
    if (!chosen.length || !counts) {
      empty(union);
      empty(average);
      return;
    }
    const now = recomputed(counts, chosen);
    fill(union, now.union, now.unionInterval, now.unionOpen, chosen, false);
    fill(average, now.average, now.averageInterval, now.averageOpen, chosen, true);
  }

  // Publications report no outcomes per example, so nothing of theirs can be recomputed.
  showPublished(row, whole) {
    const stale = (cell, changed) => {
      if (!changed) return this.restore(cell);
      this.keep(cell);
      empty(cell);
    };
    for (const name of [".union", ".average"]) stale(row.querySelector(name), !whole);
    for (const place of this.table.threats.keys()) stale(row.querySelector(`.threat.t${place}`), this.radius.moves(place));
  }

  fade(place, faded) {
    if (faded === this.faded.has(place)) return;
    for (const cell of this.section.querySelectorAll(`.main .t${place}`)) cell.classList.toggle("faded", faded);
    if (faded) this.faded.add(place);
    else this.faded.delete(place);
  }

  // Remembers a cell as it came, with its marks, before it changes.
  keep(cell) {
    if (this.made.has(cell)) return;
    const { value, bound } = cell.dataset;
    this.made.set(cell, { nodes: [...cell.childNodes], value, bound, title: cell.getAttribute("title") });
  }

  // Puts a changed cell back as it came.
  restore(cell) {
    const known = this.made.get(cell);
    if (!known) return;
    this.made.delete(cell);
    cell.replaceChildren(...known.nodes);
    if (known.value === undefined) delete cell.dataset.value;
    else cell.dataset.value = known.value;
    cell.toggleAttribute("data-bound", known.bound !== undefined);
    if (known.title === null) cell.removeAttribute("title");
    else cell.setAttribute("title", known.title);
  }
}
