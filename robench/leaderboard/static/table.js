"use strict";
// The table of a set of threats: sorting, filtering, columns, and the choice of threats.

const MASKED = "gradients are masked, or may be: a stronger attack may find more";
const MAX_THREATS = 30; // a bit each

// Writes a share into a cell, as robench/leaderboard/pages.py does.
function fillCell(cell, { share, interval, open, measured, masked }) {
  cell.replaceChildren();
  cell.removeAttribute("title");
  cell.dataset.value = measured ? share : -1;
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
    this.made = new Map(); // cells as they came, with marks, once they are changed
    this.prepared = new Map(); // counts of each model, once they are needed
    this.radius = new Radius(this);
    this.comparison = new Comparison(this);
    section.querySelector(".controls").hidden = this.table.threats.length > MAX_THREATS;
    section.querySelector(".filter").addEventListener("input", () => this.filter());
    this.heads();
    this.columns();
    this.boxes(".tick", () => this.choose());
    this.boxes(".compare", () => this.comparison.show());
    this.filter(); // browsers restore ticks and texts when a page is visited again
    if (this.chosen.length < this.table.threats.length) this.choose();
    this.comparison.show();
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
    const value = (row) => row.cells[head.cellIndex].dataset.value;
    const sign = head.getAttribute("aria-sort") === "ascending" ? 1 : -1;
    const text = head.dataset.kind === "text";
    const order = (a, b) => (text ? value(a).localeCompare(value(b), "en") : Number(value(a)) - Number(value(b)));
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
    }
    this.radius.allow();
  }

  // Shows union and average over the ticked threats, and every threat within its radius.
  choose() {
    const { chosen, table } = this;
    const whole = chosen.length === table.threats.length && !this.radius.moved;
    for (const row of this.rows) this.show(row, chosen, whole);
    for (const [place] of table.threats.entries()) {
      const faded = !chosen.includes(place);
      for (const cell of this.section.querySelectorAll(`.main .t${place}`)) cell.classList.toggle("faded", faded);
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
    if (!this.prepared.has(id)) this.prepared.set(id, prepare(parsePatterns(this.table.models[id].patterns)));
    return this.prepared.get(id);
  }

  show(row, chosen, whole) {
    const cells = { union: row.querySelector(".union"), average: row.querySelector(".average") };
    const places = [...this.table.threats.keys()];
    const threats = places.map((place) => row.querySelector(`.threat.t${place}`));
    const other = row.querySelector(".protocol-union");
    for (const cell of [cells.union, cells.average, other, ...threats]) this.restore(cell);
    if (whole) return;
    empty(other);
    const counts = this.counts(row.dataset.model);
    const model = this.model(row);
    const fill = (cell, share, interval, open, at, all) => {
      const measured = at.map((place) => model.measured[place] === "1");
      const masked = at.some((place) => model.masked[place] === "1");
      fillCell(cell, { share, interval, open, measured: all ? measured.every(Boolean) : measured.some(Boolean), masked });
    };
    for (const place of places.filter((at) => this.radius.moves(at))) {
      if (!counts) empty(threats[place]);
      else fill(threats[place], ...single(counts, place), [place], true);
    }
    if (!chosen.length || !counts) {
      empty(cells.union);
      empty(cells.average);
      return;
    }
    const now = recomputed(counts, chosen);
    fill(cells.union, now.union, now.unionInterval, now.unionOpen, chosen, false);
    fill(cells.average, now.average, now.averageInterval, now.averageOpen, chosen, true);
  }

  // A cell as it came.
  restore(cell) {
    const known = this.made.get(cell);
    if (!known) {
      this.made.set(cell, { html: cell.innerHTML, value: cell.dataset.value, title: cell.getAttribute("title") });
      return;
    }
    cell.innerHTML = known.html;
    cell.dataset.value = known.value;
    if (known.title === null) cell.removeAttribute("title");
    else cell.setAttribute("title", known.title);
  }
}
