(() => {
  "use strict";
  const specs = [...document.querySelectorAll("script[data-figure]")];
  const read = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const names = ["ink", "panel", "hole"];
  const axis = (given, grid, soft) => ({
    gridcolor: grid, zerolinecolor: soft, zerolinewidth: 1, linecolor: grid, tickfont: { color: soft, size: 12 }, ...given,
    zeroline: Boolean(given.zeroline),
    title: { ...given.title, font: { color: soft, size: 12.5 } },
  });
  const draw = () => {
    const ink = read("--ink"), soft = read("--soft"), grid = read("--grid"), panel = read("--panel");
    for (const script of specs) {
      let text = script.textContent;
      for (const name of names) text = text.replaceAll(`"@${name}"`, JSON.stringify(read(`--${name}`)));
      const { data, layout } = JSON.parse(text);
      for (const trace of data) {
        if (trace.colorbar) Object.assign(trace.colorbar, { tickfont: { color: soft }, outlinewidth: 0 });
        if (trace.colorbar) trace.colorbar.title.font = { color: soft, size: 12.5 };
      }
      const themed = {
        paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", margin: { l: 56, r: 14, t: 12, b: 48 },
        font: { family: getComputedStyle(document.body).fontFamily, color: ink, size: 13 },
        hoverlabel: { bgcolor: panel, bordercolor: grid, font: { color: ink } }, hovermode: "closest", ...layout,
        xaxis: axis(layout.xaxis || {}, grid, soft), yaxis: axis(layout.yaxis || {}, grid, soft),
        showlegend: false,
      };
      const place = document.getElementById(`plot-${script.dataset.figure}`);
      Plotly.react(place, data, themed, {
        responsive: true, displayModeBar: false, scrollZoom: false, doubleClick: "reset",
      });
    }
  };
  draw();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
})();
