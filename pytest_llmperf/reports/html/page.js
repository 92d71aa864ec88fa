"use strict";
(() => {
  const root = document.documentElement;
  const all = (selector, of = document) => [...of.querySelectorAll(selector)];
  const by = (id) => document.getElementById(id);
  const tests = all("details.test");
  const rows = new Map(all("[data-of]").map((row) => [row.dataset.of, row]));

  // Charts: drawn when they come into view, by a library that is unpacked when the first of them does.

  const once = (make) => {
    let made;
    return () => made ??= make();
  };
  const unpacked = (id) => {
    const bytes = Uint8Array.from(atob(by(id).textContent), (letter) => letter.charCodeAt(0));
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
  };
  const library = once(async () => {
    const script = document.createElement("script");
    script.textContent = await unpacked("plotly");
    document.head.append(script);
  });
  const figures = once(async () => JSON.parse(await unpacked("figures")));

  const probe = document.createElement("span");
  probe.hidden = true;
  document.body.append(probe);
  const colour = (name) => {
    probe.style.color = "";
    probe.style.color = `var(--${name})`;
    return getComputedStyle(probe).color;
  };
  const named = /^[a-z]+[0-9]?$/;
  const coloured = (key, value) => key !== "color" ? value
    : Array.isArray(value) ? value.map(colour) : named.test(value) ? colour(value) : value;

  const layoutOf = (own) => {
    const text = colour("text"), dim = colour("dim"), line = colour("line");
    const axis = {gridcolor: line, zerolinecolor: line, linecolor: line, tickcolor: line, automargin: true};
    const titled = (given = {}) => ({...axis, ...given, title: {...given.title, font: {size: 12, color: dim}}});
    return {
      ...own,
      xaxis: titled(own.xaxis),
      yaxis: titled(own.yaxis),
      font: {family: "system-ui, sans-serif", size: 12, color: text},
      margin: {l: 50, r: 16, t: 20, b: 42, ...own.margin},
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      hoverlabel: {bgcolor: colour("raised"), bordercolor: line, font: {color: text}},
      legend: {orientation: "h", x: 0, y: 1.02, yanchor: "bottom", traceorder: "normal", font: {color: text}},
      showlegend: own.showlegend ?? false,
      dragmode: false,
    };
  };

  const charts = all("[data-chart]");
  const drawn = new Set();
  const draw = async (figure) => {
    await library();
    const plot = figure.querySelector(".plot");
    const {data, layout} = JSON.parse((await figures())[charts.indexOf(figure)], coloured);
    for (const trace of data.filter((each) => each.type === "heatmap")) {
      trace.colorscale = [[0, colour("raised")], [1, colour("heat")]];
    }
    drawn.add(figure);
    plot.setAttribute("role", "img");
    plot.setAttribute("aria-label", `Chart: ${figure.querySelector("h3, h4").textContent}`);
    await Plotly.react(plot, data, layoutOf(layout), {displayModeBar: false, responsive: true});
  };
  const watched = new IntersectionObserver((seen) => {
    for (const {target} of seen.filter((each) => each.isIntersecting)) {
      watched.unobserve(target);
      draw(target);
    }
  }, {rootMargin: "300px"});
  for (const figure of charts) {
    const plot = figure.querySelector(".plot");
    plot.style.minHeight = `${plot.dataset.height}px`;
    watched.observe(figure);
  }

  // The theme: the system's until somebody chooses.

  const dark = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => root.dataset.theme ? root.dataset.theme === "dark" : dark.matches;
  const themed = () => {
    by("theme").setAttribute("aria-pressed", String(isDark()));
    drawn.forEach(draw);
  };
  by("theme").addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    themed();
  });
  dark.addEventListener("change", themed);

  // Which tests are shown.

  const words = new Map(tests.map((test) => [test, test.querySelector("summary").textContent.toLowerCase()
    + (test.querySelector(".facts")?.textContent.toLowerCase() ?? "")]));
  const boxes = all(".tools input[type=checkbox]");
  const show = () => {
    const asked = by("search").value.toLowerCase().split(/\s+/);
    const verdicts = new Set(boxes.filter((box) => box.checked).map((box) => box.value));
    let number = 0;
    for (const test of tests) {
      const is = verdicts.has(test.dataset.verdict) && asked.every((word) => words.get(test).includes(word));
      test.hidden = !is;
      rows.get(test.id).hidden = !is;
      number += is;
    }
    by("shown").textContent = `${number} of ${tests.length} shown`;
  };
  by("search").addEventListener("input", show);
  boxes.forEach((box) => box.addEventListener("change", show));
  by("open").addEventListener("click", () => tests.forEach((test) => { test.open = !test.hidden; }));
  by("close").addEventListener("click", () => tests.forEach((test) => { test.open = false; }));

  const follow = () => {
    const test = tests.find((each) => `#${each.id}` === location.hash);
    if (!test) return;
    test.open = true;
    test.scrollIntoView();
    test.querySelector("summary").focus({preventScroll: true});
  };
  addEventListener("hashchange", follow);

  document.querySelector(".tools").hidden = false;
  show();
  themed();
  follow();
  root.dataset.ready = "";
})();
