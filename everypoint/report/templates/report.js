"use strict";
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];

  // Tables: a click, Enter or Space on a heading sorts; rows without a value stay at the end.
  const value = (cell) => {
    const text = cell.dataset.sort ?? cell.textContent.trim();
    return text === "" || Number.isNaN(Number(text)) ? text.toLowerCase() : Number(text);
  };
  const order = (a, b, sign) => {
    if (a === "" || b === "") return (a === "") - (b === "");
    if (typeof a === typeof b) return sign * (typeof a === "number" ? a - b : a.localeCompare(b, undefined, { numeric: true }));
    return typeof a === "number" ? -1 : 1;
  };
  const sort = (table, column, direction) => {
    const sign = direction === "ascending" ? 1 : -1;
    const body = table.tBodies[table.tBodies.length - 1];
    const rows = [...body.rows].map((row) => [value(row.cells[column]), row]);
    rows.sort((a, b) => order(a[0], b[0], sign));
    body.append(...rows.map((pair) => pair[1]));
    all("thead th", table).forEach((head, k) => head.setAttribute("aria-sort", k === column ? direction : "none"));
  };
  for (const table of all("table.sortable")) {
    if (table.tBodies[table.tBodies.length - 1].rows.length < 2) continue;
    all("thead th", table).forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.className = "sort";
      button.append(...head.childNodes);
      head.append(button);
      head.setAttribute("aria-sort", "none");
      const first = head.classList.contains("num") ? "descending" : "ascending";
      const other = first === "descending" ? "ascending" : "descending";
      button.addEventListener("click", () => sort(table, column, head.getAttribute("aria-sort") === first ? other : first));
    });
  }

  // Video by preset: which score is shown, and the best of each row.
  const matrix = document.getElementById("matrix");
  const choice = document.getElementById("choice");
  const show = () => {
    const k = choice.selectedIndex;
    const better = Number(choice.options[k].dataset.better);
    for (const row of all("tbody tr", matrix)) {
      const cells = all(".cell", row).filter((cell) => !cell.dataset.state && cell.hasAttribute("data-t" + k));
      const shown = cells.filter((cell) => cell.getAttribute("data-v" + k) !== "");
      const numbers = shown.map((cell) => better * Number(cell.getAttribute("data-t" + k)));
      for (const cell of cells) {
        cell.textContent = cell.getAttribute("data-t" + k);
        cell.dataset.sort = cell.getAttribute("data-v" + k);
        cell.classList.remove("best");
      }
      if (better && shown.length > 1) shown.forEach((cell, n) => cell.classList.toggle("best", numbers[n] === Math.max(...numbers)));
    }
    for (const cell of all("[data-state]", matrix)) cell.dataset.sort = "";
    const sorted = matrix.querySelector("th[aria-sort$=ending]");
    if (sorted) sort(matrix, sorted.cellIndex, sorted.getAttribute("aria-sort"));
  };
  if (choice) {
    choice.addEventListener("change", show);
    show();
  }
  const find = document.getElementById("find");
  if (find) {
    find.addEventListener("input", () => {
      const wanted = find.value.trim().toLowerCase();
      const hide = (element, name) => { element.hidden = !name.toLowerCase().includes(wanted); };
      for (const row of all("tbody:last-of-type tr", matrix)) hide(row, row.cells[0].dataset.sort);
      for (const section of all("details.video")) hide(section, section.querySelector("h3").textContent);
    });
  }

  // Players: one picture at a time; switching keeps the moment and whether it plays.
  const choose = (player, preset, kind) => {
    const figures = all("figure", player);
    const old = figures.find((figure) => !figure.hidden)?.querySelector("video");
    const next = figures.find((figure) => figure.dataset.preset === preset && figure.dataset.kind === kind)
      ?? figures.find((figure) => figure.dataset.preset === preset);
    for (const figure of figures) figure.hidden = figure !== next;
    for (const button of all(".tabs button", player)) {
      const pressed = button.dataset.preset ? button.dataset.preset === preset : button.dataset.kind === next.dataset.kind;
      button.setAttribute("aria-pressed", String(pressed));
    }
    const video = next.querySelector("video");
    if (old && old !== video && (old.currentTime > 0 || !old.paused)) {
      const [moment, playing] = [old.currentTime, !old.paused];
      old.pause();
      video.currentTime = moment;
      if (playing) video.play();
    }
  };
  for (const player of all(".player")) {
    const figures = all("figure", player);
    const tabs = document.createElement("div");
    tabs.className = "tabs";
    tabs.setAttribute("role", "group");
    tabs.setAttribute("aria-label", "Which overlay is shown");
    const current = () => figures.find((figure) => !figure.hidden).dataset;
    const add = (text, attribute, click) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = text;
      button.dataset[attribute] = text;
      button.addEventListener("click", click);
      tabs.append(button);
    };
    const presets = [...new Set(figures.map((figure) => figure.dataset.preset))];
    const kinds = [...new Set(figures.map((figure) => figure.dataset.kind))];
    if (presets.length > 1) for (const preset of presets) add(preset, "preset", () => choose(player, preset, current().kind));
    if (presets.length > 1 && kinds.length > 1) {
      const gap = document.createElement("span");
      gap.className = "gap";
      tabs.append(gap);
    }
    if (kinds.length > 1) for (const kind of kinds) add(kind, "kind", () => choose(player, current().preset, kind));
    if (tabs.childNodes.length) player.prepend(tabs);
    choose(player, presets[0], kinds[0]);
  }

  // Sections: a link to a video opens it; a closed one stops playing.
  const sections = all("details.video");
  const reveal = () => {
    const target = location.hash ? document.getElementById(location.hash.slice(1)) : null;
    if (target && target.matches("details")) {
      target.open = true;
      target.scrollIntoView();
    }
  };
  addEventListener("hashchange", reveal);
  reveal();
  for (const section of sections) {
    section.addEventListener("toggle", () => {
      if (!section.open) for (const video of all("video", section)) video.pause();
    });
  }
  document.getElementById("open-all")?.addEventListener("click", () => { for (const section of sections) section.open = true; });
  document.getElementById("close-all")?.addEventListener("click", () => { for (const section of sections) section.open = false; });
})();
