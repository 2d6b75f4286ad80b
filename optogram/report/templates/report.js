"use strict";
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  // Plots, in the colours of the page.
  const coloured = (value) => {
    if (typeof value === "string") return value.startsWith("var(--") ? css(value.slice(4, -1)) : value;
    if (Array.isArray(value)) return value.map(coloured);
    if (value && typeof value === "object") return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, coloured(v)]));
    return value;
  };
  const touch = matchMedia("(pointer: coarse)").matches;
  const axis = () => ({ gridcolor: css("--line"), linecolor: css("--line"), tickcolor: css("--line"), zerolinecolor: css("--line"), automargin: true, title: { standoff: 10 } });
  const layoutOf = (layout) => {
    const theme = coloured(layout);
    const join = (name) => {
      const own = theme[name] || {};
      return { ...axis(), ...own, title: { ...axis().title, ...own.title, font: { size: 12, color: css("--muted") } } };
    };
    return {
      font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: css("--ink") },
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      margin: { l: 8, r: 8, t: 8, b: 8 },
      legend: { orientation: "h", x: 0, xanchor: "left", y: 1.02, yanchor: "bottom" },
      hoverlabel: { bgcolor: css("--surface"), bordercolor: css("--muted"), font: { family: getComputedStyle(document.body).fontFamily, color: css("--ink"), size: 13 }, align: "left" },
      dragmode: touch ? false : "zoom",
      ...theme,
      xaxis: join("xaxis"), yaxis: join("yaxis"),
    };
  };
  const config = { responsive: true, displaylogo: false, displayModeBar: false, showTips: false };
  const specs = new WeakMap();
  const draw = async (plot) => {
    const { options, chosen } = specs.get(plot);
    const { data, layout, title } = options[chosen];
    const heading = plot.closest(".figure").querySelector("h3");
    if (heading && title) heading.textContent = title;
    const first = !plot.classList.contains("drawn");
    plot.classList.add("drawn");
    await Plotly.react(plot, coloured(data), layoutOf(layout), config);
    if (first) plot.on("plotly_click", (event) => {
      const link = [event.points[0].customdata].flat()[2];
      if (typeof link === "string" && /^(heads|neurons|units)\/[\w-]+\.html(#[\w-]+)?$/.test(link)) location.href = link;
    });
  };
  // One after another, so that the page answers in between; hidden ones when their model is chosen.
  const drawNext = async () => {
    const plot = all(".plot:not(.drawn)").find((one) => one.offsetParent && specs.has(one));
    if (plot) { await draw(plot); setTimeout(drawNext); }
  };
  for (const figure of all(".figure")) {
    const plot = figure.querySelector(".plot");
    specs.set(plot, { options: JSON.parse(figure.querySelector("script").textContent), chosen: 0 });
    figure.querySelector("select")?.addEventListener("change", (event) => {
      specs.get(plot).chosen = Number(event.target.value);
      draw(plot);
    });
  }
  setTimeout(drawNext);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => all(".plot.drawn").forEach(draw));
  addEventListener("beforeprint", () => all(".plot:not(.drawn)").filter((plot) => plot.offsetParent).forEach(draw));

  // What is folded is drawn when it is opened, and opened when a link leads into it.
  for (const fold of all("details")) fold.addEventListener("toggle", () => { if (fold.open) { dispatchEvent(new Event("resize")); drawNext(); } });
  const unfold = () => {
    const aim = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    for (let fold = aim?.closest("details"); fold; fold = fold.parentElement.closest("details")) fold.open = true;
  };
  addEventListener("hashchange", unfold);
  unfold();

  // Of the units on a page one at a time: the one that the address names, or the first.
  const units = all("article.unit");
  const chooseUnit = () => {
    const named = document.getElementById(location.hash.slice(1)), unit = named?.closest("article.unit") || units[0];
    for (const one of units) one.hidden = one !== unit;
    for (const link of all(".jumps a")) link.classList.toggle("now", link.hash.slice(1) === unit.id);
    if (named === unit) scrollTo(0, 0);
    drawNext();
  };
  if (units.length > 1) { addEventListener("hashchange", chooseUnit); chooseUnit(); }

  // One model at a time, where there are several.
  const models = all("input[name=model]");
  const choose = (slug) => {
    for (const part of all("[data-model]")) part.hidden = part.dataset.model !== slug;
    dispatchEvent(new Event("resize"));
    drawNext();
  };
  for (const input of models) input.addEventListener("change", () => choose(input.value));
  const picked = models.find((input) => input.checked);
  if (picked) choose(picked.value);

  // The contents: folded on a phone, marked as one reads.
  const contents = document.querySelector(".contents details");
  if (contents && matchMedia("(max-width: 60rem)").matches) contents.open = false;
  const links = new Map(all(".contents li a").map((link) => [link.hash.slice(1), link]));
  const reading = new IntersectionObserver((entries) => {
    for (const entry of entries) if (entry.isIntersecting) {
      for (const [id, link] of links) link.classList.toggle("now", id === entry.target.id);
    }
  }, { rootMargin: "-20% 0px -75% 0px" });
  for (const section of all("section[id]")) reading.observe(section);

  // The line under the grid of heads says what one points at.
  for (const box of all(".gridbox")) {
    const hint = box.querySelector(".hint");
    if (!hint) continue;
    const tell = (event) => { const cell = event.target.closest(".cell"); hint.textContent = cell ? cell.title : hint.dataset.rest; };
    for (const name of ["mouseover", "focusin"]) box.querySelector(".grid").addEventListener(name, tell);
    box.querySelector(".grid").addEventListener("mouseleave", () => { hint.textContent = hint.dataset.rest; });
  }

  // Tabs.
  for (const tabs of all(".tabs")) {
    const buttons = all("[role=tab]", tabs), panels = all("[role=tabpanel]", tabs);
    const show = (k) => {
      buttons.forEach((button, j) => { button.setAttribute("aria-selected", j === k); button.tabIndex = j === k ? 0 : -1; });
      panels.forEach((panel, j) => { panel.hidden = j !== k; });
    };
    buttons.forEach((button, k) => {
      button.addEventListener("click", () => show(k));
      button.addEventListener("keydown", (event) => {
        const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
        if (!step) return;
        event.stopPropagation();
        const next = (k + step + buttons.length) % buttons.length;
        show(next); buttons[next].focus();
      });
    });
    if (buttons.length) show(0);
  }

  // Visualisations: another seed is the picture to the right, on the same sheet.
  for (const input of all("input[name=seed]")) {
    const choose = () => {
      if (!input.checked) return;
      document.documentElement.style.setProperty("--seed", input.value);
      for (const part of all("[data-seed]")) part.toggleAttribute("hidden", part.dataset.seed !== input.value);
    };
    input.addEventListener("change", choose);
    choose();
  }

  // What the optimisation attended to least fades first. A veil's brightness a is how far a place was attended to; it
  // is drawn in the colour of the page with opacity 3 (t - a), so that at t = 1 only places above 2/3 are seen.
  const slider = document.getElementById("transparency");
  if (slider) {
    const fade = () => {
      const t = Number(slider.value), [r, g, b] = css("--surface").match(/[0-9a-f]{2}/gi).map((part) => parseInt(part, 16) / 255);
      document.querySelector("#veil feColorMatrix").setAttribute("values", `0 0 0 0 ${r} 0 0 0 0 ${g} 0 0 0 0 ${b} -3 0 0 0 ${3 * t}`);
      document.documentElement.classList.toggle("veiled", t > 0);
    };
    slider.addEventListener("input", fade);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", fade);
    fade();
  }

  // A small curve leads to the plot of its target, also from another page.
  const follow = (hash) => {
    const select = document.querySelector("#convergence select"), target = /^#target-(\d+)$/.exec(hash);
    if (!select || !target) return;
    select.value = target[1];
    select.dispatchEvent(new Event("change"));
  };
  for (const curve of all(".curve")) curve.addEventListener("click", () => follow(curve.hash));
  follow(location.hash);

  // The labels of images: one file has them for all pages.
  const sheets = typeof LABELS === "undefined" ? {} : LABELS;
  for (const thumb of all(".thumb[title]")) {
    const own = getComputedStyle(thumb), known = sheets[thumb.classList[1]]?.[Number(own.getPropertyValue("--x")) + 32 * Number(own.getPropertyValue("--y"))];
    if (known) thumb.title += ` · ${known}`;
  }

  // A thumbnail, larger, with all that is known about it.
  const closer = document.getElementById("closer");
  document.addEventListener("click", (event) => {
    const thumb = event.target.closest(".thumb:not(.none)");
    if (event.target === closer) closer.close();
    if (!thumb || closer.contains(thumb)) return;
    closer.querySelector(".big").replaceChildren((thumb.closest(".shot") || thumb).cloneNode(true));
    const told = all("figcaption:not([hidden]) span", thumb.closest(".target figure") || closer).map((line) => line.textContent);
    closer.querySelector("p").textContent = [thumb.title, ...told].join(" · ");
    closer.showModal();
  });

  // Arrow keys go through the units.
  document.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey || event.shiftKey || closer.open || event.target.closest?.("select, input")) return;
    const rel = { ArrowLeft: "prev", ArrowRight: "next" }[event.key];
    const link = rel && all(`a[rel=${rel}]`).find((one) => one.offsetParent);
    if (link) location.href = link.href;
  });
})();
