// The trend of a metric in a cell of the table.

const WIDTH = 80;
const HEIGHT = 18;
const NAMESPACE = "http://www.w3.org/2000/svg";

/** An empty sparkline; `draw` fills it. */
export function sparkline() {
  const svg = document.createElementNS(NAMESPACE, "svg");
  svg.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("class", "spark");
  svg.setAttribute("aria-hidden", "true");
  svg.append(document.createElementNS(NAMESPACE, "path"));
  return svg;
}

/** Draw values, oldest first; null is a gap. */
export function draw(svg, values) {
  svg.firstChild.setAttribute("d", path(values ?? []));
}

export function path(values) {
  const known = values.filter((value) => Number.isFinite(value));
  if (known.length === 0) return "";
  // halves: the difference of two huge numbers may be more than a number can be
  const least = Math.min(...known) / 2;
  const spread = Math.max(...known) / 2 - least || 1;
  const across = WIDTH / Math.max(1, values.length - 1);
  let text = "";
  let isGap = true;
  values.forEach((value, position) => {
    if (!Number.isFinite(value)) {
      isGap = true;
      return;
    }
    const y = HEIGHT - 1.5 - ((value / 2 - least) / spread) * (HEIGHT - 3);
    text += `${isGap ? "M" : "L"}${(position * across).toFixed(1)} ${y.toFixed(1)}`;
    // a point between two gaps has no line: give it a stroke of its own
    if (isGap && !Number.isFinite(values[position + 1])) text += "h0.8";
    isGap = false;
  });
  return text;
}
