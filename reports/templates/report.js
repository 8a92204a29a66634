// Puts the page together: each campaign's views follow one chosen network.
function campaign(article) {
  const source = data.campaigns[Number(article.dataset.campaign)];
  const rows = networkRows(source);
  const byNumber = new Map(rows.map((row) => [row.number, row]));
  const figures = Object.fromEntries(
    Object.entries(source.figures).map(([name, figure]) => [name, plot(article.querySelector(`[data-plot=${name}]`), figure)]),
  );
  const front = figures.front.element;
  const table = networkTable(article, rows, source.metric, select);
  const view = chosenView(article, source, rows, figures);
  let chosen = byNumber.get(source.selected);

  function select(number) {
    chosen = byNumber.get(number) ?? chosen;
    update(figures.front, "selected", { x: [100 * chosen.flops_ratio], y: [chosen.metric] });
    view.show(chosen);
    table.mark(chosen.number);
    const next = neighbours();
    for (const button of article.querySelectorAll("[data-step]")) button.disabled = !next[button.dataset.step];
  }

  function neighbours() {
    const path = table.path();
    const here = path.indexOf(chosen);
    const [before, after] = here >= 0
      ? [path[here - 1], path[here + 1]]
      : [path.findLast((row) => row.flops <= chosen.flops), path.find((row) => row.flops > chosen.flops)];
    return { "-1": before, 1: after, first: path[0], last: path.at(-1) };
  }

  for (const button of article.querySelectorAll("[data-step]"))
    button.addEventListener("click", () => select(neighbours()[button.dataset.step].number));
  front.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: "-1", ArrowDown: "-1", ArrowRight: "1", ArrowUp: "1", Home: "first", End: "last" }[event.key];
    if (!step) return;
    event.preventDefault();
    const next = neighbours()[step];
    if (next) select(next.number);
  });
  article.querySelector("[data-filter]").addEventListener("change", () => select(chosen.number));
  figures.front.whenShown = () =>
    front.on("plotly_click", (event) => {
      const point = event.points.find((item) => byNumber.has(item.customdata?.[0]));
      if (point) select(point.customdata[0]);
    });
  select(chosen.number);
}

data.compare.forEach((figure, i) => plot(document.getElementById(`compare-${i}`), figure));
document.querySelectorAll("[data-campaign]").forEach(campaign);
document.querySelector("[data-theme-toggle]").addEventListener("click", () =>
  setTheme(root.dataset.theme === "dark" ? "light" : "dark"),
);
document.querySelector("[data-print]").addEventListener("click", () => window.print());
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", (event) => setTheme(event.matches ? "dark" : "light"));
addEventListener("beforeprint", () => print(true));
addEventListener("afterprint", () => print(false));
