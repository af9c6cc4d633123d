"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const [SPLIT, NUMBER, STATUS, SOURCE, NUM_EDITS, IS_CUT, REPLACEMENTS, LINES] = data.rows.length ? data.rows[0].keys() : [];
  const ABOVE_AND_BELOW = 600; // pixels of rows kept beyond what is in view
  const PRINTED = 200; // rows
  const feed = byId("feed");
  const space = byId("space");
  const query = byId("query");
  const choices = { status: data.statuses, split: data.splits, column: columns(), source: data.sources };
  const nodes = new Map(); // place in `shown` -> article
  const texts = []; // row -> what the filter searches, made when first needed
  let shown = data.rows;
  let heights = [];
  let tops = [0]; // tops[i]: where row i begins; the last is the height of all
  let current = 0;
  let replacement = null;
  let isPrinting = false;

  function columns() {
    return [...new Set(data.places.map((place) => place.replace(/\[\d+\].*$/s, "")))].filter(Boolean).sort();
  }

  // elements

  function element(name, attributes = {}, ...children) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  }

  function piece(kind, text) {
    if (kind === 1) return element("del", {}, element("span", { class: "sr" }, "deleted "), text);
    if (kind === 2) return element("ins", {}, element("span", { class: "sr" }, "inserted "), text);
    return text;
  }

  function line([place, ...pieces]) {
    const made = element("p", { dir: "auto" });
    if (data.places[place]) made.append(element("bdi", { class: "place" }, data.places[place]));
    for (let i = 0; i < pieces.length; i += 2) made.append(piece(pieces[i], pieces[i + 1]));
    return made;
  }

  function article(i) {
    const row = shown[i];
    const label = element("b", { id: `row-${i}` }, `${data.splits[row[SPLIT]]} ${row[NUMBER]}`);
    const head = element("header", {}, label, element("span", {}, data.statuses[row[STATUS]]));
    if (row[SOURCE] >= 0) head.append(element("bdi", {}, data.sources[row[SOURCE]]));
    if (row[NUM_EDITS]) head.append(element("span", {}, row[NUM_EDITS] === 1 ? "1 edit" : `${row[NUM_EDITS]} edits`));
    if (row[IS_CUT]) head.append(element("span", {}, "only the first ones fit here"));
    const attributes = { class: "row", tabindex: -1, "aria-labelledby": `row-${i}` };
    attributes["aria-posinset"] = i + 1;
    attributes["aria-setsize"] = shown.length;
    const made = element("article", attributes, head, ...row[LINES].map(line));
    made.addEventListener("focus", () => (current = i));
    return made;
  }

  // the list: only rows in view, and some beyond, are in the document

  function estimate(row) {
    const perLine = Math.max(20, feed.clientWidth / 8);
    let lines = 1.5;
    for (const [, ...pieces] of row[LINES]) {
      let length = 0;
      for (let i = 1; i < pieces.length; i += 2) length += pieces[i].length + 2;
      lines += Math.ceil(length / perLine) + 0.25;
    }
    return lines * 25;
  }

  function layOut() {
    tops = new Array(shown.length + 1);
    tops[0] = 0;
    for (let i = 0; i < shown.length; i++) tops[i + 1] = tops[i] + heights[i];
    space.style.height = `${tops[shown.length]}px`;
  }

  function rowAt(y) {
    let low = 0;
    let high = shown.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (tops[middle] <= y) low = middle;
      else high = middle - 1;
    }
    return low;
  }

  function render() {
    if (!shown.length || isPrinting) return;
    for (let tries = 0; tries < 4; tries++) {
      const anchor = rowAt(feed.scrollTop);
      const offset = feed.scrollTop - tops[anchor];
      const first = rowAt(feed.scrollTop - ABOVE_AND_BELOW);
      const last = rowAt(feed.scrollTop + feed.clientHeight + ABOVE_AND_BELOW);
      place(first, last);
      if (!measure(first, last)) return;
      layOut();
      for (const [i, node] of nodes) node.style.transform = `translateY(${tops[i]}px)`;
      feed.scrollTop = tops[anchor] + offset;
    }
  }

  function place(first, last) {
    for (const [i, node] of nodes) {
      if (i >= first && i <= last) continue;
      if (node.contains(document.activeElement)) feed.focus({ preventScroll: true });
      node.remove();
      nodes.delete(i);
    }
    for (let i = first; i <= last; i++) {
      if (nodes.has(i)) continue;
      const node = article(i);
      node.style.transform = `translateY(${tops[i]}px)`;
      const next = [...nodes.keys()].filter((other) => other > i).sort((a, b) => a - b)[0];
      space.insertBefore(node, next === undefined ? null : nodes.get(next));
      nodes.set(i, node);
    }
  }

  function measure(first, last) {
    let differs = false;
    for (let i = first; i <= last; i++) {
      const height = nodes.get(i).offsetHeight;
      if (height !== heights[i]) {
        heights[i] = height;
        differs = true;
      }
    }
    return differs;
  }

  function goTo(i) {
    if (!shown.length) return;
    current = Math.max(0, Math.min(shown.length - 1, i));
    for (let tries = 0; tries < 3; tries++) {
      const bottom = tops[current + 1] - feed.clientHeight;
      if (tops[current] < feed.scrollTop || heights[current] > feed.clientHeight) feed.scrollTop = tops[current];
      else if (bottom > feed.scrollTop) feed.scrollTop = bottom;
      render();
    }
    nodes.get(current)?.focus({ preventScroll: true });
  }

  // the filter

  function searched(row) {
    const sides = ["", ""];
    for (const [, ...pieces] of row[LINES]) {
      for (let i = 0; i < pieces.length; i += 2) {
        if (pieces[i] !== 2) sides[0] += pieces[i + 1];
        if (pieces[i] !== 1) sides[1] += pieces[i + 1];
      }
      sides[0] += "\n";
      sides[1] += "\n";
    }
    return sides.join("\n").toLowerCase();
  }

  function hasColumn(row, column) {
    return row[LINES].some(([place]) => {
      const name = data.places[place];
      return name === column || name.startsWith(`${column}[`);
    });
  }

  function filter() {
    const wanted = query.value.toLowerCase();
    const chosen = (name) => byId(name).value;
    const is = (value, choice) => choice === "" || value === Number(choice);
    shown = data.rows.filter(
      (row, i) =>
        is(row[STATUS], chosen("status")) &&
        is(row[SPLIT], chosen("split")) &&
        is(row[SOURCE], chosen("source")) &&
        (chosen("column") === "" || hasColumn(row, choices.column[chosen("column")])) &&
        (replacement === null || row[REPLACEMENTS].includes(replacement)) &&
        (!wanted || (texts[i] ??= searched(row)).includes(wanted)),
    );
    const number = (n) => n.toLocaleString("en");
    byId("found").textContent =
      shown.length === data.rows.length
        ? `${number(shown.length)} rows`
        : `${number(shown.length)} of ${number(data.rows.length)} rows listed`;
    start();
  }

  function start() {
    for (const node of nodes.values()) node.remove();
    nodes.clear();
    heights = shown.map(estimate);
    current = 0;
    layOut();
    feed.scrollTop = 0;
    render();
  }

  function choose(which) {
    replacement = replacement === which ? null : which;
    for (const button of document.querySelectorAll("[data-replacement]"))
      button.setAttribute("aria-pressed", Number(button.dataset.replacement) === replacement);
    const chip = byId("replacement");
    chip.hidden = replacement === null;
    if (replacement !== null) {
      const [old, now] = data.replacements[replacement];
      chip.replaceChildren(...[[1, old], [2, now]].filter(([, text]) => text).map(([kind, text]) => piece(kind, text)), " ✕");
      chip.setAttribute("aria-label", `Not only rows where ${old || "nothing"} became ${now || "nothing"}`);
    }
    filter();
  }

  // what the reader does

  feed.addEventListener("scroll", render, { passive: true });
  feed.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
    const onFeed = document.activeElement === feed;
    const steps = {
      ArrowDown: () => (onFeed ? rowAt(feed.scrollTop) : current + 1),
      ArrowUp: () => (onFeed ? rowAt(feed.scrollTop) : current - 1),
      PageDown: () => Math.max(current + 1, rowAt(tops[current] + feed.clientHeight)),
      PageUp: () => Math.min(current - 1, rowAt(tops[current] - feed.clientHeight)),
      Home: () => 0,
      End: () => shown.length - 1,
    };
    if (!(event.key in steps)) return;
    event.preventDefault();
    goTo(steps[event.key]());
  });
  document.addEventListener("keydown", (event) => {
    const isTyping = /^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement?.tagName);
    if (event.key === "/" && !isTyping && !event.ctrlKey && !event.metaKey && !event.altKey) {
      event.preventDefault();
      query.focus();
    }
  });
  query.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && query.value) {
      query.value = "";
      filter();
    } else if (event.key === "ArrowDown" && shown.length) {
      event.preventDefault();
      goTo(0);
    }
  });
  query.addEventListener("input", filter);
  for (const [name, values] of Object.entries(choices)) {
    const select = byId(name);
    values.forEach((value, i) => select.append(element("option", { value: i }, value)));
    select.closest("label").hidden = values.length < 2;
    select.addEventListener("change", filter);
  }
  for (const button of document.querySelectorAll("[data-replacement]")) {
    button.disabled = false;
    button.addEventListener("click", () => {
      choose(Number(button.dataset.replacement));
      if (replacement !== null) byId("rows").scrollIntoView();
    });
  }
  byId("replacement").addEventListener("click", () => {
    choose(replacement);
    query.focus();
  });
  new ResizeObserver(([{ contentRect }]) => {
    if (contentRect.width === feed.lastWidth) return render();
    feed.lastWidth = contentRect.width;
    const top = rowAt(feed.scrollTop);
    heights = shown.map(estimate);
    layOut();
    feed.scrollTop = tops[top] ?? 0;
    render();
  }).observe(feed);

  const theme = byId("theme");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  let isDark = dark.matches;
  function paint() {
    document.documentElement.style.colorScheme = isDark ? "dark" : "light";
    theme.textContent = isDark ? "Light" : "Dark";
    theme.setAttribute("aria-label", isDark ? "Light colours" : "Dark colours");
  }
  theme.addEventListener("click", () => {
    isDark = !isDark;
    paint();
  });
  dark.addEventListener("change", () => {
    isDark = dark.matches;
    paint();
  });
  theme.hidden = false;
  paint();

  for (const button of document.querySelectorAll(".copy")) {
    button.hidden = false;
    button.addEventListener("click", async () => {
      const code = button.parentElement.nextElementSibling;
      getSelection().selectAllChildren(code);
      try {
        await navigator.clipboard.writeText(code.textContent.trim());
        button.textContent = "Copied";
      } catch {
        button.textContent = "Selected"; // without access to the clipboard: press Ctrl-C
      }
    });
  }

  addEventListener("beforeprint", () => {
    isPrinting = true;
    for (const node of nodes.values()) node.remove();
    nodes.clear();
    for (let i = 0; i < Math.min(PRINTED, shown.length); i++) space.append(article(i));
    if (shown.length > PRINTED) space.append(element("p", { class: "cut" }, `… and ${shown.length - PRINTED} more rows`));
  });
  addEventListener("afterprint", () => {
    isPrinting = false;
    space.replaceChildren();
    render();
  });

  byId("list").hidden = false;
  filter();
})();
