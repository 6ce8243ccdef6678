// The contact sheet of a film: a strip of crops for each entity, then all frames. What is picked becomes a correction.

const { film, frames } = JSON.parse(document.getElementById("data").textContent);
const SHOWN = 16; // crops of an entity, at most

const picked = new Map(); // "scene/frame/entity" to the place as corrections name it
const colours = new Map(); // entity to the number of its colour
const sightings = new Map(); // entity to its frames and boxes
for (const frame of frames) {
  for (const seen of frame.seen) {
    if (!colours.has(seen.entity)) colours.set(seen.entity, colours.size);
    if (!sightings.has(seen.entity)) sightings.set(seen.entity, []);
    sightings.get(seen.entity).push({ frame, seen });
  }
}

const key = ({ frame, seen }) => `${frame.scene}/${frame.frame}/${seen.entity}`;
const said = ({ frame, seen }) => `${seen.entity}, ${seen.label}, scene ${frame.scene}, frame ${frame.frame}` +
  (seen.probability === null ? "" : `, probability ${seen.probability.toFixed(2)}`);

function pick(sighting) {
  const name = key(sighting);
  if (!picked.delete(name)) {
    const { frame, seen } = sighting;
    picked.set(name, { film, frame: frame.frame, scene: frame.scene, box: seen.box });
  }
  show();
}

/** Makes an element pick a sighting, by mouse and keyboard. */
function picks(element, sighting) {
  element.dataset.place = key(sighting);
  element.setAttribute("aria-pressed", "false");
  element.setAttribute("aria-label", said(sighting));
  element.addEventListener("click", () => pick(sighting));
  return element;
}

function strip([entity, all]) {
  const step = Math.max(1, all.length / SHOWN);
  const some = Array.from({ length: Math.min(SHOWN, all.length) }, (_, i) => all[Math.floor(i * step)]);
  const crops = some.map((one) => {
    const button = h("button.pick", { type: "button", title: said(one) }, crop(one.frame, one.seen.box, colours.get(entity)));
    button.style.borderColor = edge(colours.get(entity));
    return picks(button, one);
  });
  const scenes = new Set(all.map((one) => one.frame.scene)).size;
  return h("div.entity", {}, h("div", {}, h("b", {}, entity), " ", h("span.soft", {}, all[0].seen.label),
    h("div.soft", {}, `${all.length} × in ${scenes} scenes`)), h("div.strip", {}, crops));
}

function figure(frame) {
  const boxes = frame.seen.map((seen) => {
    const [x1, y1, x2, y2] = seen.box;
    const box = svg("rect", { x: x1, y: y1, width: x2 - x1, height: y2 - y1, tabindex: 0, role: "button" },
      svg("title", {}, said({ frame, seen })));
    box.style.stroke = edge(colours.get(seen.entity));
    box.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === " ") { event.preventDefault(); pick({ frame, seen }); }
    });
    return picks(box, { frame, seen });
  });
  const when = frame.seconds === null ? "" : `, ${frame.seconds.toFixed(1)} s`;
  return h("figure", {}, svg("svg", { viewBox: `0 0 ${frame.width} ${frame.height}` },
    svg("image", { href: frame.src, width: frame.width, height: frame.height }), ...boxes),
    h("figcaption", {}, `scene ${frame.scene}, frame ${frame.frame}${when}: ${frame.seen.map((one) => one.entity).join(", ") || "nothing"}`));
}

const lines = h("textarea", { rows: 3, "aria-label": "Corrections, one on each line", placeholder: "Corrections: pick two or more boxes, then say whether they are the same." });
const link = h("a", { download: `${film}-corrections.jsonl` }, "save corrections");
const count = h("span.soft", { role: "status" });
const ways = ["merge", "split"].map((way) => h("button", {
  type: "button", id: way,
  onclick: () => {
    lines.value += `${JSON.stringify({ [way]: [...picked.values()] })}\n`;
    picked.clear();
    show();
  },
}, way === "merge" ? "These are the same" : "These are different"));
lines.addEventListener("input", () => show());

function show() {
  for (const one of document.querySelectorAll("[data-place]")) one.setAttribute("aria-pressed", String(picked.has(one.dataset.place)));
  for (const button of ways) button.disabled = picked.size < 2;
  count.textContent = picked.size ? `${picked.size} picked` : "";
  link.href = `data:application/jsonl;charset=utf-8,${encodeURIComponent(lines.value)}`;
}

document.body.append(
  h("main.wide", {},
    h("section", {}, h("h1", {}, film), h("p.soft", {}, `${frames.length} frames, ${sightings.size} entities. Every row should be one and the same.`)),
    h("section", {}, h("h2", {}, "Entities"), [...sightings].map(strip)),
    h("section", {}, h("h2", {}, "Frames"), h("div.frames", {}, frames.map(figure)))),
  h("div.tools", {}, h("div", {}, ways, count, link), lines));
show();
