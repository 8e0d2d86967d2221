// On a phone a table of many columns is wider than the screen. There each row is a card, and each value stands beside
// its column's name: drawn by ratchet.css, which finds the names in `data-label`. Roles, as a table that is no longer
// laid out as one is none for some screen readers.

const FEWEST_COLUMNS = 4; // fewer find room, but for sentences, and where the template says `data-fold`
const ROLES = { THEAD: "rowgroup", TBODY: "rowgroup", TR: "row", TD: "cell" };

function fold(table) {
  const heads = [...table.tHead.rows[0].cells];
  table.setAttribute("role", "table");
  for (const part of table.querySelectorAll("thead, tbody, tr, td")) part.setAttribute("role", ROLES[part.tagName]);
  for (const head of table.querySelectorAll("th")) {
    head.setAttribute("role", head.scope === "row" ? "rowheader" : "columnheader");
  }
  for (const row of table.querySelectorAll("tbody tr")) {
    let column = 0;
    for (const cell of row.cells) {
      if (cell.tagName === "TD") cell.dataset.label = heads[column]?.textContent.trim() ?? "";
      column += cell.colSpan;
    }
  }
  table.dataset.folds = "";
}

function look() {
  for (const table of document.querySelectorAll(".scroll > table:not([data-folds])")) {
    const columns = table.tHead?.rows[0].cells.length ?? 0;
    if (columns >= FEWEST_COLUMNS || table.matches("[data-fold], :has(.sentence)")) fold(table);
  }
}

look();
document.addEventListener("htmx:load", look);

// The newest is on the right of a plot: where it is wider than its place, that is what is seen first.
for (const plot of document.querySelectorAll(".scroll > .plot")) plot.parentElement.scrollLeft = plot.clientWidth;
