// The only place that creates elements. Text is inserted as text, so nothing in a story can become markup.

/** h("p.soft", {title: "x", onclick: f}, "text", [more], null) creates an element. Data attributes keep their names ("data-ids"). */
function h(name, props = {}, ...children) {
  const [tag, ...classes] = name.split(".");
  const element = document.createElement(tag);
  element.classList.add(...classes);
  for (const [key, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** The same for SVG elements. */
function svg(name, props, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(props)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

// Neighbours in this list are far apart on the colour wheel, so that the first entities of a story differ most.
const HUES = [28, 250, 150, 320, 80, 200, 0, 280, 115, 225, 345, 55];
const hue = (colour) => HUES[colour % HUES.length];
const edge = (colour) => `light-dark(oklch(.62 .15 ${hue(colour)}), oklch(.76 .125 ${hue(colour)}))`;

/** Colours an element by its entities: the first one fills it, all of them appear in its striped underline. */
function paint(element, colours) {
  if (!colours.length) return element;
  element.style.setProperty("--h", hue(colours[0]));
  const stops = colours.map((c, i) => `${edge(c)} ${(100 * i) / colours.length}% ${(100 * (i + 1)) / colours.length}%`);
  element.style.setProperty("--stripe", `linear-gradient(90deg, ${stops.join(", ")})`);
  return element;
}

/** Small frames are scaled up as sharp pixels, film frames smoothly. */
const isSmall = (image) => image.width <= 256;

/** A square crop of a frame around a box, with a small margin; for a long box only its middle. */
function crop(image, box, colour) {
  if (!image || !box) return paint(h("span.crop.none", { "aria-hidden": "true" }, "–"), [colour]);
  const [x1, y1, x2, y2] = box;
  const side = Math.min(Math.max(x2 - x1, y2 - y1) * 1.12, image.width, image.height);
  const inside = (middle, length) => Math.min(Math.max(middle - side / 2, 0), length - side);
  const left = inside((x1 + x2) / 2, image.width), top = inside((y1 + y2) / 2, image.height);
  const picture = svg("svg", { viewBox: `${left} ${top} ${side} ${side}`, "aria-hidden": "true" },
    svg("image", { href: image.src, width: image.width, height: image.height }));
  return paint(h(`span.crop${isSmall(image) ? ".small" : ""}`, {}, picture), [colour]);
}

/** Roving tabindex: one Tab stop per group (passage, frame, table), arrow keys inside the group. */
function rove(group) {
  const stops = () => [...group.querySelectorAll("[data-ids]")];
  stops().forEach((stop, i) => stop.setAttribute("tabindex", i ? "-1" : "0"));
  group.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    const all = stops(), at = all.indexOf(event.target);
    if (!step || at < 0) return;
    event.preventDefault();
    const next = all[(at + step + all.length) % all.length];
    all[at].setAttribute("tabindex", "-1");
    next.setAttribute("tabindex", "0");
    next.focus();
  });
  return group;
}
