"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const night = matchMedia("(prefers-color-scheme: dark)");
  const ROWS_AT_FIRST = 200;
  const PAPER_WIDTH = 680; // pixels that fit on A4 and on letter
  const plots = [];
  let printing = false;

  // Figures arrive in light colours; on dark paper every colour is replaced by its partner.
  function coloured(value) {
    if (!night.matches || printing) return structuredClone(value);
    if (typeof value === "string") return data.dark[value] ?? value;
    if (Array.isArray(value)) return value.map(coloured);
    if (value && typeof value === "object")
      return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, coloured(item)]));
    return value;
  }

  // On a narrow screen the names of lines move from the right margin to the lines' empty left end.
  function fitted(layout, width) {
    if (printing) return { ...layout, width: PAPER_WIDTH };
    if (width >= 620) return layout;
    layout.margin = { ...layout.margin, l: 52, r: 14 };
    for (const label of layout.annotations ?? [])
      Object.assign(label, label.xref === "paper" ? { x: 0, xshift: 2, yshift: 9 } : { ax: 0 });
    return layout;
  }

  function draw({ element, figure }) {
    const config = { displayModeBar: false, responsive: true };
    const layout = fitted(coloured(figure.layout), element.clientWidth);
    return Plotly.react(element, coloured(figure.data), layout, config);
  }

  function plot(element, figure) {
    const item = { element, figure };
    plots.push(item);
    draw(item);
    return item;
  }

  // Changes arrays of one trace, on the screen and in the figure that a change of theme draws again.
  function update({ element, figure }, name, arrays) {
    const index = figure.data.findIndex((trace) => trace.name === name);
    Object.assign(figure.data[index], arrays);
    const wrapped = Object.fromEntries(Object.entries(arrays).map(([key, array]) => [key, [array]]));
    Plotly.restyle(element, wrapped, [index]);
  }

  const percent = (ratio) => {
    const value = 100 * ratio;
    return `${value.toFixed(value >= 10 ? 0 : value >= 1 ? 1 : 2)} %`;
  };
  const signed = (value) => (value < 0 ? "−" : "+") + Math.abs(value).toFixed(3);
  const fixed = (value) => (value === null ? "–" : value.toFixed(3));
  const engineering = (value, unit) => {
    const [scale, prefix] = value >= 1e9 ? [1e9, "G"] : value >= 1e6 ? [1e6, "M"] : value >= 1e3 ? [1e3, "k"] : [1, ""];
    return `${(value / scale).toPrecision(3)} ${prefix}${unit}`.trim();
  };
  const STANDING = { 2: "observed front", 1: "plausible", 0: "dominated" };

  function node(tag, text, attributes = {}) {
    const element = document.createElement(tag);
    if (text !== undefined) element.textContent = text;
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    return element;
  }

  function columns(metric) {
    return [
      { label: "trial", value: (row) => row.number, ascending: true },
      { label: "FLOPs", value: (row) => row.flops_ratio, show: percent, ascending: true },
      { label: "parameters", value: (row) => row.params_ratio, show: percent, ascending: true },
      { label: "activations", value: (row) => row.activation_bytes_ratio, show: percent, ascending: true },
      { label: metric, value: (row) => row.metric, show: fixed },
      { label: "to dense", value: (row) => row.difference, show: signed },
      { label: "± (95 %)", value: (row) => row.half, show: fixed, ascending: true },
      { label: "repeats", value: (row) => row.replicates },
      { label: "kind", value: (row) => row.kind, text: true, ascending: true },
      { label: "standing", value: (row) => row.standing, show: (value) => STANDING[value], text: true },
    ];
  }

  function networkRows({ columns: table, genomes }) {
    const rows = genomes.map((genome, i) => {
      const row = Object.fromEntries(Object.entries(table).map(([name, values]) => [name, values[i]]));
      return { ...row, genome, standing: row.front ? 2 : row.plausible ? 1 : 0 };
    });
    const dense = rows.find((row) => row.kind === "dense");
    for (const row of rows)
      for (const cost of ["flops", "params", "activation_bytes"]) row[`${cost}_ratio`] = row[cost] / dense[cost];
    return rows;
  }

  function campaign(article) {
    const source = data.campaigns[Number(article.dataset.campaign)];
    const rows = networkRows(source);
    const byNumber = new Map(rows.map((row) => [row.number, row]));
    const path = rows.filter((row) => row.plausible).sort((a, b) => a.flops - b.flops || a.metric - b.metric);
    const at = (selector) => article.querySelector(selector);
    const figures = Object.fromEntries(
      Object.entries(source.figures).map(([name, figure]) => [name, plot(at(`[data-plot=${name}]`), figure)]),
    );
    const table = networkTable(article, rows, source.metric, select);
    let chosen = byNumber.get(source.selected);

    function select(number) {
      chosen = byNumber.get(number);
      update(figures.front, "selected", { x: [100 * chosen.flops_ratio], y: [chosen.metric] });
      const kept = chosen.genome.map((gene, i) => Math.round((gene * source.channels[i]) / source.units[i]));
      const old = figures.ratios.figure.data[1];
      const arrays = {
        y: chosen.genome.map((gene, i) => (100 * gene) / source.units[i]),
        customdata: kept.map((count, i) => [count, source.channels[i], source.shares[i]]),
      };
      if (old.text) arrays.text = kept.map(String);
      update(figures.ratios, "kept", arrays);
      at("[data-out=groups]").querySelectorAll("td:nth-child(4)").forEach((cell, i) => (cell.textContent = kept[i]));
      describe();
      table.mark(number);
    }

    function describe() {
      const { kind, number } = chosen;
      const title = { dense: "the dense network", ladder: "a rung of the uniform ladder", search: "found by the search" }[kind];
      at("[data-out=title]").textContent = `Trial ${number}: ${title}`;
      const half = chosen.half;
      const facts = [
        [source.metric, fixed(chosen.metric)],
        ["to dense", kind === "dense" ? "–" : signed(chosen.difference), half && kind !== "dense" ? `± ${fixed(half)}` : ""],
        ["FLOPs", percent(chosen.flops_ratio), engineering(chosen.flops, "")],
        ["parameters", percent(chosen.params_ratio), engineering(chosen.params, "")],
        ["peak activations", percent(chosen.activation_bytes_ratio), engineering(chosen.activation_bytes, "B")],
        ["validation loss", fixed(chosen.loss)],
        ["repeats", String(chosen.replicates)],
        ["standing", STANDING[chosen.standing]],
      ];
      at("[data-out=facts]").replaceChildren(
        ...facts.map(([label, value, detail]) => {
          const [item, dd] = [node("div"), node("dd", value)];
          if (detail) dd.append(" ", node("small", detail));
          item.append(node("dt", label), dd);
          return item;
        }),
      );
      const step = neighbours();
      article.querySelectorAll("[data-step]").forEach((button) => (button.disabled = !step[button.dataset.step]));
    }

    function neighbours() {
      const here = path.indexOf(chosen);
      if (here >= 0) return { "-1": path[here - 1], 1: path[here + 1] };
      return {
        "-1": path.findLast((row) => row.flops <= chosen.flops),
        1: path.find((row) => row.flops > chosen.flops),
      };
    }

    article.querySelectorAll("[data-step]").forEach((button) =>
      button.addEventListener("click", () => select(neighbours()[button.dataset.step].number)),
    );
    figures.front.element.on("plotly_click", (event) => {
      const point = event.points.find((item) => item.customdata);
      if (point) select(point.customdata[0]);
    });
    select(chosen.number);
  }

  function networkTable(article, rows, metric, select) {
    const [head, body] = [article.querySelector("[data-table] thead tr"), article.querySelector("[data-table] tbody")];
    const [filter, more] = [article.querySelector("[data-filter]"), article.querySelector("[data-more]")];
    const fields = columns(metric);
    const order = { field: fields[1], sign: 1, all: false };
    let marked = null;

    const compare = (a, b) => {
      const [x, y] = [order.field.value(a), order.field.value(b)];
      if (x === null || y === null) return (x === null) - (y === null);
      return order.sign * (x < y ? -1 : x > y ? 1 : 0) || a.number - b.number;
    };

    function line(row) {
      const tr = node("tr", undefined, { "data-number": row.number });
      for (const field of fields) {
        const value = field.value(row);
        const cell = node("td", value === null ? "–" : field.show ? field.show(value) : String(value));
        if (field.text) cell.className = "text";
        if (field.label === "standing" && row.front) cell.classList.add("front");
        tr.append(cell);
      }
      const button = node("button", String(row.number), { type: "button", "aria-label": `Choose trial ${row.number}` });
      tr.firstChild.replaceChildren(button);
      tr.addEventListener("click", () => select(row.number));
      return tr;
    }

    function fill() {
      const shown = rows.filter((row) => filter.value === "all" || row[filter.value]).sort(compare);
      const part = order.all ? shown : shown.slice(0, ROWS_AT_FIRST);
      body.replaceChildren(...part.map(line));
      more.hidden = part.length === shown.length;
      more.textContent = `Show all ${shown.length}`;
      fields.forEach((field, i) => {
        const direction = order.sign > 0 ? "ascending" : "descending";
        head.children[i].setAttribute("aria-sort", field === order.field ? direction : "none");
      });
      mark(marked);
    }

    function mark(number) {
      marked = number;
      for (const tr of body.children) {
        const here = Number(tr.dataset.number) === number;
        tr.classList.toggle("selected", here);
        tr.querySelector("button").setAttribute("aria-pressed", String(here));
      }
    }

    for (const field of fields) {
      const [th, button] = [node("th", undefined, { scope: "col" }), node("button", field.label, { type: "button" })];
      if (field.text) th.className = "text";
      button.addEventListener("click", () => {
        order.sign = order.field === field ? -order.sign : field.ascending ? 1 : -1;
        order.field = field;
        fill();
      });
      th.append(button);
      head.append(th);
    }
    filter.addEventListener("change", fill);
    more.addEventListener("click", () => {
      order.all = true;
      fill();
    });
    fill();
    return { mark };
  }

  function print(on) {
    printing = on;
    for (const item of plots) {
      draw(item);
      if (!on) Plotly.Plots.resize(item.element); // gives the width back to the page
    }
  }

  if (data.compare) plot(document.getElementById("compare"), data.compare);
  document.querySelectorAll("[data-campaign]").forEach(campaign);
  night.addEventListener("change", () => plots.forEach(draw));
  addEventListener("beforeprint", () => print(true));
  addEventListener("afterprint", () => print(false));
})();
