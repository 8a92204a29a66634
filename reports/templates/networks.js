// The networks of a campaign and the table that lists them.
const ROWS_AT_FIRST = 200;
const STANDING = { 4: "reference", 3: "advised", 2: "observed front", 1: "plausible", 0: "dominated" };

function networkRows({ columns: table, genomes }) {
  const rows = genomes.map((genome, i) => {
    const row = Object.fromEntries(Object.entries(table).map(([name, values]) => [name, values[i]]));
    const standing = row.kind === "dense" ? 4 : row.advised ? 3 : row.front ? 2 : row.plausible ? 1 : 0;
    return { ...row, genome, standing, fronts: row.advised || row.front || row.kind === "dense" };
  });
  const dense = rows.find((row) => row.kind === "dense");
  for (const row of rows)
    for (const cost of ["flops", "params", "activation_bytes"]) row[`${cost}_ratio`] = row[cost] / dense[cost];
  return rows;
}

function tableFields(metric) {
  const unlessDense = (key, show) => (row) => (row.kind === "dense" ? null : row[key]);
  return [
    { label: "network", value: (row) => row.number, ascending: true },
    { label: "FLOPs", value: (row) => row.flops_ratio, show: percent, ascending: true },
    { label: "parameters", value: (row) => row.params_ratio, show: percent, ascending: true },
    { label: "activations", value: (row) => row.activation_bytes_ratio, show: percent, ascending: true },
    { label: metric, value: (row) => row.metric, show: fixed },
    { label: "to dense", value: unlessDense("difference"), show: signed },
    { label: "± (95 %)", value: unlessDense("half"), show: fixed, ascending: true },
    { label: "shrunken", value: unlessDense("estimate"), show: signed },
    { label: "runs", value: (row) => row.replicates },
    { label: "kind", value: (row) => row.kind, text: true, ascending: true },
    { label: "standing", value: (row) => row.standing, show: (value) => STANDING[value], text: true },
  ];
}

function networkTable(article, rows, metric, select) {
  const [head, body] = [article.querySelector("[data-table] thead tr"), article.querySelector("[data-table] tbody")];
  const [filter, more] = [article.querySelector("[data-filter]"), article.querySelector("[data-more]")];
  const fields = tableFields(metric);
  const order = { field: fields[1], sign: 1, all: false };
  let marked = null;

  const compare = (a, b) => {
    const [x, y] = [order.field.value(a), order.field.value(b)];
    if (x === null || y === null) return (x === null) - (y === null);
    return order.sign * (x < y ? -1 : x > y ? 1 : 0) || a.number - b.number;
  };
  const listed = (row) => filter.value === "all" || row[filter.value];
  const shown = () => rows.filter(listed);

  function line(row) {
    const tr = node("tr", undefined, { "data-number": row.number });
    for (const field of fields) {
      const value = field.value(row);
      const cell = node("td", value === null ? "–" : field.show ? field.show(value) : String(value));
      if (field.text) cell.className = "text";
      if (field.label === "standing" && row.standing >= 2 && row.standing < 4) cell.classList.add("front");
      tr.append(cell);
    }
    const button = node("button", String(row.number), { type: "button", "aria-label": `Choose network ${row.number}` });
    tr.firstChild.replaceChildren(button);
    tr.addEventListener("click", () => select(row.number));
    return tr;
  }

  function fill() {
    const sorted = rows.filter((row) => listed(row) || row.number === marked).sort(compare);
    const part = sorted.filter((row, i) => order.all || i < ROWS_AT_FIRST || row.number === marked);
    body.replaceChildren(...part.map(line));
    more.hidden = part.length === sorted.length;
    more.textContent = `Show all ${sorted.length}`;
    fields.forEach((field, i) => {
      const direction = order.sign > 0 ? "ascending" : "descending";
      head.children[i].setAttribute("aria-sort", field === order.field ? direction : "none");
    });
    highlight();
  }

  // The chosen network has its row, whatever the filter leaves out.
  function mark(number) {
    marked = number;
    if (![...body.children].some((tr) => Number(tr.dataset.number) === number)) fill();
    else highlight();
  }

  function highlight() {
    for (const tr of body.children) {
      const here = Number(tr.dataset.number) === marked;
      tr.classList.toggle("selected", here);
      tr.querySelector("button").setAttribute("aria-pressed", String(here));
      if (here) reveal(tr);
    }
  }

  // Brings a row into the table's own window, and leaves the page where it is.
  function reveal(tr) {
    const pane = tr.closest(".tall");
    const [top, bottom] = [tr.offsetTop - tr.parentElement.offsetTop, tr.offsetTop + tr.offsetHeight];
    if (top < pane.scrollTop) pane.scrollTop = top;
    else if (bottom > pane.scrollTop + pane.clientHeight) pane.scrollTop = bottom - pane.clientHeight;
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
  body.addEventListener("keydown", (event) => {
    const step = { ArrowDown: "nextElementSibling", ArrowUp: "previousElementSibling" }[event.key];
    const next = step && event.target.closest("tr")[step];
    if (!next) return;
    event.preventDefault();
    next.querySelector("button").focus();
    select(Number(next.dataset.number));
  });
  filter.addEventListener("change", fill);
  more.addEventListener("click", () => {
    order.all = true;
    fill();
  });
  fill();
  return { mark, path: () => shown().sort((a, b) => a.flops - b.flops || a.metric - b.metric) };
}
