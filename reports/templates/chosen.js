// The chosen network beside dense: what is written and drawn below the front.
const KINDS = { dense: "the dense network", ladder: "a rung of the uniform ladder", search: "found by the search" };

function chosenView(article, source, rows, figures) {
  const at = (selector) => article.querySelector(selector);
  const dense = rows.find((row) => row.kind === "dense");

  function show(row) {
    const out = `Network ${row.number}: ${KINDS[row.kind]}`;
    at("[data-out=title]").textContent = out;
    at("[data-out=summary]").textContent = summary(row);
    beside(row);
    ratios(row);
    classes(row);
    spread(row);
    at("[data-out=genome]").textContent = row.genome.join(" ");
    for (const place of article.querySelectorAll("[data-out=number]")) place.textContent = row.number;
    at("[data-out=origin]").textContent =
      `first measured in trial ${row.number}, ${row.replicates === 1 ? "once" : `${row.replicates} times`}`;
  }

  function summary(row) {
    if (row.kind === "dense") return `${source.metric} ${fixed(row.metric)}; what everything is compared with.`;
    const half = row.half === null ? "" : ` (± ${fixed(row.half)})`;
    const test = source.tested[row.number];
    const held = test?.[3] != null ? ` On held-out test cases: ${signed(test[3])} (${signed(test[4])} to ${signed(test[5])}).` : "";
    return `${percent(row.flops_ratio)} of the FLOPs, ${source.metric} ${fixed(row.metric)}: ${signed(row.difference)}${half} to dense; ${STANDING[row.standing]}.${loss(row)}${held}`;
  }

  // The class that loses most, where its interval says that it does.
  function loss(row) {
    const lost = (source.classes[row.number] ?? [])
      .map(([, difference, , high], i) => ({ difference, high, name: source.classNames[i] }))
      .filter(({ high }) => high !== null && high < 0)
      .sort((a, b) => a.difference - b.difference)[0];
    return lost ? ` Loses ${source.measure} of ${lost.name}: ${signed(lost.difference)}.` : "";
  }

  function beside(row) {
    const lines = [
      [`${source.metric}, validation`, fixed(dense.metric), fixed(row.metric), signed(row.difference)],
      ["the difference, shrunken", "", "", row.kind === "dense" ? "" : signed(row.estimate)],
    ];
    const [test, denseTest] = [source.tested[row.number], source.tested[dense.number]];
    if (test) lines.push([`${source.metric}, held-out test`, fixed(denseTest?.[0]), fixed(test[0]), signed(test[3])]);
    lines.push(
      ["FLOPs", engineering(dense.flops, ""), engineering(row.flops, ""), row.flops_ratio],
      ["parameters", engineering(dense.params, ""), engineering(row.params, ""), row.params_ratio],
      ["peak activations", engineering(dense.activation_bytes, "B"), engineering(row.activation_bytes, "B"), row.activation_bytes_ratio],
    );
    for (const { label, values } of source.latency) {
      const [before, now] = [values[dense.number], values[row.number]];
      const time = (found) => (found ? milliseconds(found[0]) : "not measured");
      lines.push([label, time(before), time(now), before?.[0] && now?.[0] ? now[0] / before[0] : ""]);
      if (before?.[3] && now?.[3])
        lines.push([`${label}: peak memory`, engineering(before[3], "B"), engineering(now[3], "B"), now[3] / before[3]]);
    }
    at("[data-out=beside]").replaceChildren(...lines.map(besideLine));
  }

  function besideLine([label, before, now, share]) {
    const tr = node("tr");
    tr.append(node("th", label, { scope: "row" }), node("td", before), node("td", now));
    const cell = node("td", typeof share === "number" ? percent(share) : share);
    if (typeof share === "number") {
      const bar = node("span", undefined, { class: "bar", "aria-hidden": "true" });
      bar.append(node("i"));
      bar.firstChild.style.width = `${Math.min(100, 100 * share)}%`;
      cell.prepend(bar);
    }
    tr.append(cell);
    return tr;
  }

  function ratios(row) {
    const kept = row.genome.map((gene, i) => Math.round((gene * source.channels[i]) / source.units[i]));
    const bars = figures.ratios.figure.data[1];
    const change = {
      y: row.genome.map((gene, i) => (100 * gene) / source.units[i]),
      customdata: kept.map((count, i) => [count, ...bars.customdata[i].slice(1)]),
    };
    if (bars.text) change.text = kept.map(String);
    update(figures.ratios, "kept", change);
    at("[data-out=groups]").querySelectorAll("td:nth-child(4)").forEach((cell, i) => (cell.textContent = kept[i]));
  }

  function classes(row) {
    if (!figures.classes) return;
    const names = figures.classes.figure.layout.yaxis.ticktext;
    const known = source.classes[row.number];
    at("[data-out=classes-missing]").hidden = Boolean(known);
    for (const [trace, values] of [["validation", known], ["test", source.testedClasses[row.number]]]) {
      const present = (values ?? []).map((value, i) => [i, value]).filter(([, value]) => value[1] !== null);
      update(figures.classes, trace, {
        x: present.map(([, value]) => value[1]),
        y: present.map(([i]) => i),
        text: present.map(([i]) => names[i]),
        customdata: present.map(([, [value, , low, high]]) => [value, low, high]),
        "error_x.array": present.map(([, value]) => value[3] - value[1]),
        "error_x.arrayminus": present.map(([, value]) => value[1] - value[2]),
      });
    }
    const cells = source.classNames.map((name, i) => {
      const tr = node("tr");
      const [value, difference, low, high] = known?.[i] ?? [null, null, null, null];
      const reference = source.classes[dense.number]?.[i]?.[0] ?? null;
      const ends = row.kind === "dense" || low === null ? "" : `${signed(low)} to ${signed(high)}`;
      tr.append(node("th", name, { scope: "row" }), node("td", fixed(reference)), node("td", fixed(value)));
      tr.append(node("td", row.kind === "dense" ? "–" : signed(difference)), node("td", ends));
      return tr;
    });
    at("[data-out=classes]").replaceChildren(...cells);
    const ends = [...(known ?? []), ...(source.testedClasses[row.number] ?? [])].flatMap(([, , low, high]) => [Math.abs(low), Math.abs(high)]);
    const reach = 1.1 * Math.max(source.reach, ...ends);
    rescale(figures.classes, "xaxis.range", [-reach, reach]);
  }

  // How the measure spreads over the held-out cases: of finalised networks only.
  function spread(row) {
    if (!figures.spread) return;
    const known = source.spread[row.number];
    at("[data-out=spread]").hidden = !known;
    for (const [trace, low, high] of known ? [["network, most", 0, 4], ["network, half", 1, 3]] : [])
      update(figures.spread, trace, {
        x: known.map((ends) => ends[2]),
        customdata: known.map(([p5, p25, , p75, p95]) => [p5, p25, p75, p95]),
        "error_x.array": known.map((ends) => ends[high] - ends[2]),
        "error_x.arrayminus": known.map((ends) => ends[2] - ends[low]),
      });
  }

  return { show };
}
