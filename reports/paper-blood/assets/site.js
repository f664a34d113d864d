// Glue between the pages, which read well without it, and what a script adds: sorting by keyboard, filters, copying.
// Sorting itself is sortable.min.js. Nothing here writes markup: whatever comes from a record stays text.
"use strict";

// Before the body is read, so that tables which a filter hides are never laid out.
document.documentElement.classList.add("js");

const all = (selector, within = document) => [...within.querySelectorAll(selector)];

function element(name, attributes, ...children) {
  const made = Object.assign(document.createElement(name), attributes);
  made.append(...children);
  return made;
}

// A heading that sorts is a button in its cell: Tab reaches it, Enter and Space press it, `aria-sort` says what it did.
function headings() {
  for (const heading of all("table.sortable thead th:not(.no-sort)")) {
    const button = element("button", { type: "button", className: "sort", title: heading.title }, ...heading.childNodes);
    heading.removeAttribute("title");
    heading.append(button);
  }
  // The best first: sortable turns what a heading says, so a heading whose low values are better starts out turned.
  document.addEventListener("click", ({ target }) => {
    const heading = target.closest("table.sortable thead th:not(.no-sort)");
    if (heading && heading.dataset.better === "lower" && !heading.hasAttribute("aria-sort")) {
      heading.setAttribute("aria-sort", "descending");
    }
  }, true);
}

function filters() {
  const form = document.getElementById("filters");
  if (!form) return;
  const { task, name, family, tag } = form.elements;
  const boards = all("section.board");

  function apply() {
    const part = name ? name.value.trim().toLowerCase() : "";
    boards.forEach((board, at) => board.classList.toggle("current", !task || !task.value || +task.value === at + 1));
    for (const board of boards) {
      for (const box of all("input[name=columns]", form)) {
        board.classList.toggle(`without-g${box.value}`, !box.checked);
      }
      for (const row of all("table.results tbody.rows tr", name ? board : element("p"))) {
        const { family: of, tags } = row.dataset;
        row.hidden = Boolean(
          (part && !row.querySelector("th").textContent.toLowerCase().includes(part)) ||
          (family.value && of !== "reference" && of !== family.value) ||
          (tag && tag.value && of !== "reference" && !tags.split("|").includes(tag.value)));
      }
    }
    const rows = all(".board.current table.results tbody.rows:not(.references) tr");
    const shown = rows.filter((row) => !row.hidden).length;
    if (name) document.getElementById("shown").textContent = `${shown} of ${rows.length} rows shown`;
  }

  // A link to the table of one task opens it.
  function follow() {
    const at = boards.findIndex((board) => `#${board.id}` === location.hash);
    if (at >= 0 && task) task.value = String(at + 1);
    apply();
    if (at >= 0) boards[at].scrollIntoView();
  }

  form.addEventListener("input", apply);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(apply));
  window.addEventListener("hashchange", follow);
  form.hidden = false;
  follow();
}

function copying() {
  const status = element("p", { className: "hidden" });
  status.setAttribute("role", "status");
  document.body.append(status);
  for (const cell of all(".command")) {
    const button = element("button", { type: "button", className: "copy" }, "Copy");
    button.addEventListener("click", async () => {
      const done = await copy(cell.querySelector("code"));
      button.textContent = done ? "Copied" : "Press Ctrl+C";
      status.textContent = done ? "Command copied" : "Command selected; press Ctrl+C to copy it";
      setTimeout(() => { button.textContent = "Copy"; }, 2000);
    });
    cell.prepend(button);
  }
}

// A page from disk may be refused the clipboard: then the command is left selected.
async function copy(code) {
  try {
    await navigator.clipboard.writeText(code.textContent);
    return true;
  } catch {
    getSelection().selectAllChildren(code);
    return document.execCommand("copy");
  }
}

// Charts: the picture is there; once it comes into view, its interactive twin takes its place. What it shows stands in
// the page as data, which no browser runs.
const site = { themes: {} };
window.site = site;
const ERRORS = 1;  // what Vega may log
const library = document.currentScript.src.replace(/site\.js$/, "vega.js");
let loaded;

function load() {
  loaded ??= new Promise((resolve, reject) => {
    document.head.append(element("script", { src: library, onload: resolve, onerror: reject }));
  });
  return loaded;
}

function charts() {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const drawn = new Set();

  async function draw(drawing) {
    const name = drawing.dataset.chart;
    const place = element("div", { className: "drawn" });
    try {
      await load();
      drawing.append(place);  // it needs a width before it is drawn
      await vegaEmbed(place, JSON.parse(document.getElementById(`${name}-spec`).textContent), {
        actions: false, ast: true, defaultStyle: false, logLevel: ERRORS, renderer: "svg",
        config: site.themes[dark.matches ? "dark" : "light"],
        tooltip: { disableDefaultStyle: true },
      });
      place.querySelector("svg").setAttribute("aria-hidden", "true");  // its frame has the description; marks have none
      drawing.replaceChildren(place);
      for (const name of ["role", "aria-label"]) drawing.removeAttribute(name);  // the twin has its own
      drawn.add(drawing);
    } catch {
      place.remove();  // the picture stays
    }
  }

  const seen = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (isIntersecting) {
        seen.unobserve(target);
        draw(target);
      }
    }
  }, { rootMargin: "400px" });
  for (const drawing of all(".drawing[data-chart]")) seen.observe(drawing);
  dark.addEventListener("change", () => drawn.forEach(draw));
}

document.addEventListener("DOMContentLoaded", () => {
  charts();
  headings();
  filters();
  copying();
});
