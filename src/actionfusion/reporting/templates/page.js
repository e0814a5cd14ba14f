"use strict";
(() => {
  const dataRows = (table) => [...table.tBodies[0].rows].filter((row) => !row.classList.contains("axis"));

  // Orders: a row of buttons, each with the numbers of the rows as they stood when the page was opened.
  for (const bar of document.querySelectorAll(".order")) {
    const table = document.getElementById(bar.dataset.for);
    const body = table.tBodies[0];
    const rows = dataRows(table);
    const axis = body.querySelector(".axis");
    const columns = table.classList.contains("confusion") ? [table.tHead.rows[0], ...rows] : [];
    const cells = columns.map((row) => [...row.cells]);
    bar.hidden = false;
    bar.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (!button) return;
      const places = button.dataset.order.split(" ").map(Number);
      for (const place of places) body.insertBefore(rows[place], axis);
      columns.forEach((row, index) => row.append(...places.map((place) => cells[index][place + 1])));
      for (const other of bar.querySelectorAll("button")) other.setAttribute("aria-pressed", String(other === button));
      table.dispatchEvent(new Event("reordered"));
    });
  }

  // The confusion matrix: its row and column lit, and the cell in words, under the pointer or the arrow keys.
  const percent = (part, whole) => (whole ? `${(100 * part / whole).toFixed(1)} %` : "–");
  for (const table of document.querySelectorAll(".confusion[data-status]")) {
    const status = document.getElementById(table.dataset.status);
    const rest = status.textContent;
    const bands = ["row", "column"].map((name) => {
      const band = document.createElement("div");
      band.className = `band ${name}`;
      band.hidden = true;
      table.parentElement.append(band);
      return band;
    });
    const count = (cell) => Number(cell.textContent) || 0;
    const sum = (list) => list.reduce((total, cell) => total + count(cell), 0);
    const size = dataRows(table).length;
    let at = [1, 1];
    const show = (cell) => {
      const row = cell.parentElement;
      const column = cell.cellIndex;
      at = [row.rowIndex, column];
      const truth = row.cells[0].textContent.trim();
      const said = table.tHead.rows[0].cells[column].textContent.trim();
      const ofTruth = sum([...row.cells].slice(1));
      const ofSaid = sum(dataRows(table).map((other) => other.cells[column]));
      const clips = count(cell);
      const what = truth === said ? "correctly predicted" : `predicted as ${said}`;
      status.textContent = `${clips} of ${ofTruth} ${truth} ${what} (${percent(clips, ofTruth)}); ` +
        `${percent(clips, ofSaid)} of the ${ofSaid} predictions of ${said}`;
      const box = table.parentElement;
      const frame = box.getBoundingClientRect();
      const spot = cell.getBoundingClientRect();
      const grid = table.getBoundingClientRect();
      const [across, down] = bands;
      across.style.cssText = `left:${grid.left - frame.left + box.scrollLeft}px;width:${grid.width}px;` +
        `top:${spot.top - frame.top}px;height:${spot.height}px`;
      const top = table.tHead.getBoundingClientRect().top;
      down.style.cssText = `left:${spot.left - frame.left + box.scrollLeft}px;width:${spot.width}px;` +
        `top:${top - frame.top}px;height:${grid.bottom - top}px`;
      for (const band of bands) band.hidden = false;
    };
    const hide = () => {
      for (const band of bands) band.hidden = true;
      status.textContent = rest;
    };
    const current = () => table.rows[at[0]].cells[at[1]];
    const point = (event) => {
      const cell = event.target.closest("tbody td");
      if (cell) show(cell);
    };
    status.hidden = false;
    table.tabIndex = 0;
    table.addEventListener("pointerover", point);
    table.addEventListener("click", point);
    table.addEventListener("pointerleave", () => (document.activeElement === table ? show(current()) : hide()));
    table.addEventListener("focus", () => { if (size) show(current()); });
    table.addEventListener("blur", hide);
    table.addEventListener("reordered", hide);
    table.addEventListener("keydown", (event) => {
      const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
      if (!step || !size) return;
      event.preventDefault();
      at = at.map((place, axis) => Math.min(Math.max(place + step[axis], 1), size));
      current().scrollIntoView({ block: "nearest", inline: "nearest" });
      show(current());
    });
  }
})();
