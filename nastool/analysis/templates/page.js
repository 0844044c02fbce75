"use strict";
// Everything that comes from a run is set as text, never as markup.

const PAGE = 50;
const SVG = "http://www.w3.org/2000/svg";

function element(name, attributes = {}, ...children) {
  const found = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== undefined && value !== null && value !== false) found.setAttribute(key, value === true ? "" : value);
  }
  found.append(...children);
  return found;
}

function shown(value, kind) {
  if (value === null || value === undefined) return "–";
  if (typeof value !== "number") return String(value);
  if (kind === "id") return String(value);
  if (kind === "seconds") return value >= 10 ? Math.round(value).toLocaleString("en") : value.toPrecision(2);
  if (Number.isInteger(value)) return value.toLocaleString("en");
  const size = Math.abs(value);
  return size >= 1000 ? Math.round(value).toLocaleString("en") : size < 0.01 ? value.toPrecision(4) : value.toFixed(4);
}

async function unpacked(text) {
  if (text.startsWith("{")) return JSON.parse(text);
  const packed = new Blob([Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0))]);
  return new Response(packed.stream().pipeThrough(new DecompressionStream("gzip"))).json();
}

// --- the table of all trials

class Trials {
  constructor(box) {
    this.box = box;
    this.state = { page: 0, open: new Set(), words: "", wanted: "" };
    box.querySelector(".filter").addEventListener("input", (event) => this.change({ words: event.target.value, page: 0 }));
    box.querySelector(".state-filter").addEventListener("change", (event) => this.change({ wanted: event.target.value, page: 0 }));
    for (const button of box.querySelectorAll("[data-go]")) {
      button.addEventListener("click", () => {
        const last = this.pages() - 1;
        const to = { first: 0, back: this.state.page - 1, next: this.state.page + 1, last }[button.dataset.go];
        this.change({ page: Math.min(Math.max(to, 0), last) });
      });
    }
    this.ready = this.refresh();
  }

  async refresh() {
    try {
      this.data = await unpacked(document.getElementById(this.box.dataset.rows).textContent);
    } catch {
      this.box.querySelector(".count").textContent = "This browser cannot show so many trials: they are in the run's trials.csv.";
      return;
    }
    this.count = this.data.values[0].length;
    this.texts = new Array(this.count);
    if (this.state.sort === undefined) {
      const result = this.data.columns.find((column) => column.goal) || this.data.columns[0];
      Object.assign(this.state, { sort: result.name, down: result.goal === "max" });
    }
    this.head();
    this.rows = undefined;
    this.change({});
  }

  text(row) {
    // What a word is looked for in; worked out when it is first needed.
    if (this.texts[row] === undefined) {
      const cells = this.data.values.map((column) => column[row]).filter((value) => typeof value === "string");
      const options = this.data.decisions.map(([name, options], i) => `${name}=${options[this.data.choices[i][row]]}`);
      this.texts[row] = [...cells, ...options].join("\n").toLowerCase();
    }
    return this.texts[row];
  }

  tests() {
    // The words of the filter as functions of a row: "params<1e6" compares, anything else is looked for.
    return this.state.words.toLowerCase().split(/\s+/).filter(Boolean).map((word) => {
      const found = word.match(/^(.+?)(<=|>=|<|>|=)(-?\d[\d.,]*(e[+-]?\d+)?)$/);
      const index = found ? this.data.columns.findIndex((column) => column.name.toLowerCase() === found[1]) : -1;
      if (index < 0) return (row) => this.text(row).includes(word);
      const [column, limit] = [this.data.values[index], Number(found[3].replaceAll(",", ""))];
      const compare = { "<": (a) => a < limit, ">": (a) => a > limit, "<=": (a) => a <= limit, ">=": (a) => a >= limit, "=": (a) => a === limit }[found[2]];
      return (row) => column[row] !== null && compare(column[row]);
    });
  }

  select() {
    const tests = this.tests();
    if (this.state.wanted) tests.unshift((row) => this.data.values[1][row] === this.state.wanted);
    const rows = [];
    for (let row = 0; row < this.count; row++) if (tests.every((test) => test(row))) rows.push(row);
    const column = this.data.values[this.sorted()];
    const sign = this.state.down ? -1 : 1;
    if (column) {
      rows.sort((a, b) => {
        const [x, y] = [column[a], column[b]];
        if (x === y) return a - b;
        if (x === null) return 1; // what is missing comes last, whatever the direction
        if (y === null) return -1;
        return (x < y ? -1 : 1) * sign;
      });
    }
    this.rows = rows;
  }

  sorted() {
    // By name, since a refreshed table may have new columns.
    return this.data.columns.findIndex((column) => column.name === this.state.sort);
  }

  pages() {
    return Math.max(1, Math.ceil(this.rows.length / PAGE));
  }

  change(change) {
    if (!this.data) return void Object.assign(this.state, change); // it is still being unpacked
    const selects = !this.rows || ["words", "wanted", "sort", "down"].some((key) => key in change);
    Object.assign(this.state, change);
    if (selects) this.select();
    this.state.page = Math.min(this.state.page, this.pages() - 1);
    this.show();
  }

  reveal(id) {
    // Leads to a trial: alone in the table, its row open.
    const filter = this.box.querySelector(".filter");
    filter.value = `trial=${id}`;
    this.box.querySelector(".state-filter").value = "";
    this.state.open.add(id);
    this.change({ words: filter.value, wanted: "", page: 0 });
    this.box.scrollIntoView();
    filter.focus({ preventScroll: true });
  }

  head() {
    const cells = this.data.columns.map((column, index) => {
      const button = element("button", { type: "button" }, column.name);
      button.addEventListener("click", () => {
        const same = this.state.sort === column.name;
        this.change({ sort: column.name, down: same ? !this.state.down : column.goal === "max", page: 0 });
      });
      return element("th", { scope: "col", class: this.align(column) }, button);
    });
    this.box.querySelector("thead").replaceChildren(element("tr", {}, ...cells));
  }

  align(column) {
    return ["number", "count", "seconds"].includes(column.kind) ? "number" : null;
  }

  show() {
    const { page, down, open } = this.state;
    const sort = this.sorted();
    this.box.querySelectorAll("thead th").forEach((cell, index) => {
      cell.setAttribute("aria-sort", index === sort ? (down ? "descending" : "ascending") : "none");
    });
    const body = [];
    for (const row of this.rows.slice(page * PAGE, (page + 1) * PAGE)) {
      body.push(this.row(row));
      if (open.has(this.data.values[0][row])) body.push(this.detail(row));
    }
    this.box.querySelector("tbody").replaceChildren(...body);
    this.box.querySelector(".count").textContent =
      this.rows.length === this.count ? `${this.count.toLocaleString("en")} trials` : `${this.rows.length.toLocaleString("en")} of ${this.count.toLocaleString("en")} trials`;
    this.box.querySelector(".page").textContent = `page ${page + 1} of ${this.pages()}`;
    this.box.querySelector(".pages").hidden = this.pages() === 1;
    for (const button of this.box.querySelectorAll("[data-go]")) {
      button.disabled = ["first", "back"].includes(button.dataset.go) ? page === 0 : page === this.pages() - 1;
    }
  }

  row(row) {
    const id = this.data.values[0][row];
    const open = this.state.open.has(id);
    const result = id === this.data.delivered;
    const button = element("button", { type: "button", class: "open", "aria-expanded": String(open), "aria-label": `Details of trial ${id}${result ? ", the result" : ""}` }, String(id));
    const line = element("tr", { class: result ? "result" : String(this.data.values[1][row]).startsWith("failed") ? "failed" : null });
    const toggle = () => {
      if (this.state.open.delete(id)) line.nextElementSibling.remove();
      else {
        this.state.open.add(id);
        line.after(this.detail(row));
      }
      button.setAttribute("aria-expanded", String(this.state.open.has(id)));
    };
    line.addEventListener("click", (event) => {
      if (event.target === button || !String(window.getSelection())) toggle();
    });
    this.data.columns.forEach((column, index) => {
      const value = this.data.values[index][row];
      if (index === 0) return line.append(element("th", { scope: "row" }, button));
      const text = shown(value, column.kind);
      const cell = element("td", { class: this.align(column), title: text.length > 30 ? text : null });
      cell.append(column.kind === "code" && value !== null ? element("code", {}, text) : text);
      line.append(cell);
    });
    return line;
  }

  detail(row) {
    const id = this.data.values[0][row];
    const inner = element("div", { class: "inner" });
    const add = (title, ...content) => inner.append(element("div", {}, element("h4", {}, title), ...content));
    const error = this.data.columns.findIndex((column) => column.name === "error" && column.kind === "text");
    if (error >= 0 && this.data.values[error][row] !== null) add("Error", element("div", { class: "error" }, this.data.values[error][row]));
    const curve = this.data.curves[id];
    if (curve) add("Learning curves", charts(curve));
    const drawn = document.getElementById(this.data.drawn[id] || "");
    const picture = drawn && drawn.querySelector("img.drawing");
    if (picture) add("Architecture", picture.cloneNode());
    const list = element("dl", { class: "decisions" });
    this.data.decisions.forEach(([name, options], i) => {
      list.append(element("div", {}, element("dt", {}, name), element("dd", {}, options[this.data.choices[i][row]])));
    });
    add("Decisions", list);
    return element("tr", { class: "detail" }, element("td", { colspan: this.data.columns.length }, inner));
  }
}

// --- learning curves of one trial

function shape(name, attributes, text) {
  const found = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) found.setAttribute(key, value);
  if (text !== undefined) found.textContent = text;
  return found;
}

function charts(curve) {
  const box = element("div", { class: "charts" });
  for (const [name, values] of curve.series) {
    const points = values.map((value, i) => [curve.step[i], value]).filter((point) => point[1] !== null);
    if (points.length) box.append(chart(name, points));
  }
  return box;
}

function chart(name, points) {
  const [width, height, left, bottom, top] = [320, 150, 52, 18, 20];
  const range = (values) => {
    const [low, high] = [Math.min(...values), Math.max(...values)];
    return low === high ? [low - Math.abs(low) * 0.1 - 0.001, high + Math.abs(high) * 0.1 + 0.001] : [low, high];
  };
  const [xs, ys] = [points.map((point) => point[0]), points.map((point) => point[1])];
  const [[x0, x1], [y0, y1]] = [range(xs), range(ys)];
  const x = (value) => left + ((value - x0) / (x1 - x0)) * (width - left - 8);
  const y = (value) => height - bottom - ((value - y0) / (y1 - y0)) * (height - bottom - top);
  const svg = shape("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${name}: from ${shown(ys[0])} to ${shown(ys.at(-1))}` });
  for (const value of [y0, y1]) {
    svg.append(shape("line", { x1: left, x2: width - 8, y1: y(value), y2: y(value), stroke: "var(--grid)" }));
    svg.append(shape("text", { x: left - 6, y: y(value) + 4, "text-anchor": "end" }, shown(value)));
  }
  svg.append(shape("text", { x: left, y: 11 }, name));
  svg.append(shape("text", { x: left, y: height - 4 }, String(xs[0])));
  svg.append(shape("text", { x: width - 8, y: height - 4, "text-anchor": "end" }, String(xs.at(-1))));
  const line = points.map((point) => `${x(point[0]).toFixed(1)},${y(point[1]).toFixed(1)}`).join(" ");
  if (points.length > 1) svg.append(shape("polyline", { points: line, fill: "none", stroke: "var(--c0)", "stroke-width": 1.8 }));
  else svg.append(shape("circle", { cx: x(xs[0]), cy: y(ys[0]), r: 3, fill: "var(--c0)" }));
  return svg;
}

// --- several runs: one at a time

function tabs() {
  const links = [...document.querySelectorAll(".tabs a")];
  const runs = links.map((link) => document.getElementById(link.hash.slice(1)));
  if (!links.length) return;
  const open = (number) => {
    runs.forEach((run, i) => (run.hidden = i !== number));
    links.forEach((link, i) => (i === number ? link.setAttribute("aria-current", "true") : link.removeAttribute("aria-current")));
  };
  const follow = () => {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    const number = runs.findIndex((run) => run === target || run.contains(target));
    if (number >= 0) {
      open(number);
      target.scrollIntoView();
    }
  };
  const current = links.findIndex((link) => link.hasAttribute("aria-current"));
  open(Math.max(0, current));
  window.addEventListener("hashchange", follow);
  if (location.hash) follow();
}

// --- marks and links that lead to a trial: #trial-7, or #run2-trial-7

function lead() {
  const [, prefix, id] = decodeURIComponent(location.hash).match(/^#(.*)trial-(\d+)$/) || [];
  const table = id && tables.get(`${prefix}rows`);
  if (!table) return;
  history.replaceState(null, "", `#${table.box.closest("section").id}`); // so that the same mark leads there again
  table.ready.then(() => table.reveal(Number(id)));
}

// --- a search that goes on

const tables = new Map();

function start() {
  for (const box of document.querySelectorAll(".trials")) {
    const name = box.dataset.rows;
    if (!tables.has(name)) tables.set(name, new Trials(box));
  }
}

function replace(fresh) {
  // The tables stay, with their sorting, filter and open rows; everything else is exchanged part by part.
  const part = (name, root) => root.querySelector(`[data-part="${CSS.escape(name)}"]`);
  for (const run of fresh.querySelectorAll(".run")) {
    const place = document.getElementById(run.id);
    const contents = place.querySelector(".contents");
    let last = contents; // where a new part goes
    for (const news of run.querySelectorAll("[data-part]")) {
      const old = part(news.dataset.part, place);
      if (!old) last.after(document.importNode(news, true));
      else if (news.querySelector(".trials")) fill(old, news);
      else if (old.outerHTML !== news.outerHTML) old.replaceWith(document.importNode(news, true));
      if (news.dataset.part !== "summary") last = part(news.dataset.part, place);
    }
    contents.replaceWith(document.importNode(run.querySelector(".contents"), true));
  }
  for (const name of ["overview", "checklist"]) {
    const [old, news] = [part(name, document), part(name, fresh)];
    const [folded, fold] = [old, news].map((root) => root && root.querySelector("details"));
    if (folded && fold) fold.open = folded.open;
    if (old && news && old.outerHTML !== news.outerHTML) old.replaceWith(document.importNode(news, true));
  }
  for (const table of tables.values()) table.refresh();
  start();
}

function fill(old, news) {
  const rows = (root) => root.querySelector("script[type='application/json']");
  rows(old).textContent = rows(news).textContent;
  const states = old.querySelector(".state-filter");
  const chosen = states.value;
  states.replaceChildren(...document.importNode(news.querySelector(".state-filter"), true).children);
  states.value = chosen;
}

async function follow(version) {
  const says = document.querySelector(".live");
  for (;;) {
    await new Promise((done) => setTimeout(done, document.hidden ? 10000 : 2000));
    try {
      const news = await (await fetch("version", { cache: "no-store" })).json();
      if (news.problem) {
        says.textContent = news.problem;
      } else if (news.version !== version) {
        const answer = await fetch("./", { cache: "no-store" });
        if (!answer.ok) throw new Error();
        const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
        const [x, y] = [scrollX, scrollY];
        replace(fresh);
        scrollTo({ left: x, top: y, behavior: "instant" });
        version = fresh.body.dataset.version;
        document.title = fresh.title;
        says.textContent = `refreshed at ${new Date().toLocaleTimeString()}`;
      }
    } catch {
      says.textContent = "the server does not answer; this is what it said last";
    }
  }
}

document.documentElement.classList.add("scripted");
start();
tabs();
window.addEventListener("hashchange", lead);
lead();
if (document.body.dataset.version) follow(document.body.dataset.version);
