// The story being told or checked: progress, result, and the story itself as it grows.

/** The right side of the page. `stop()` is called by its Cancel button. */
function shown(card, stop) {
  const bar = h("progress", { max: "1", value: "0", "aria-label": "Progress" });
  const line = h("p.line");
  const facts = h("p.soft.facts");
  const cancel = h("button", { type: "button", onclick: stop }, "Cancel");
  const savePage = h("button", { type: "button", onclick: async () => save(fileName("html"), await pageOf(view, items), "text/html") }, "Save page");
  const saveJson = h("button", { type: "button", onclick: async () => save(fileName("json"), await json(), "application/json") }, "Save JSON");
  const status = h("div.status", { hidden: true }, h("div.words", {}, line, facts), h("div.acts", {}, cancel, savePage, saveJson), bar);
  const spoken = h("p.hidden", { role: "status", "aria-live": "polite" });
  const raw = h("pre.raw", { tabindex: "0", "aria-label": "Raw answer" });
  const written = h("details.written.wide", { hidden: true }, h("summary", {}, "Raw answer"), raw);
  const nothing = h("div.nothing", {}, illustration(), h("h1", {}, "No story yet"), h("p.soft"));
  const element = h("section.shown", { "aria-label": "Story", tabindex: "-1" }, spoken, nothing, status, written);

  let main = null, view = null, items = [], text = "", result = {}, request = {}, colours = new Map(), began = 0, tick = 0, waiting = null, progressed = "";

  /** Removes the story and all that belongs to it. */
  function clear() {
    [items, request, text, result, view] = [[], {}, "", {}, null];
    colours = new Map();
    raw.textContent = "";
    main?.remove();
    main = null;
    if (waiting !== null) cancelAnimationFrame(waiting);
    waiting = null;
    clearInterval(tick);
    card.hidden = status.hidden = written.hidden = true;
    spoken.after(nothing);
  }

  function begin(pictures, asked) {
    clear();
    [items, request, began] = [pictures, asked, Date.now()];
    nothing.remove();
    state("busy", asked.answer === undefined ? "Waiting for the model …" : "Checking …", "");
    status.hidden = false;
    bar.removeAttribute("value"); // indeterminate until progress is known
    cancel.hidden = false;
    savePage.hidden = saveJson.hidden = true;
    tick = setInterval(() => { facts.textContent = [progressed, seconds()].filter(Boolean).join(" · "); }, 1000);
    progressed = "";
  }
  const seconds = () => `${Math.round((Date.now() - began) / 1000)} s`;

  function state(kind, words, more) {
    status.className = `status ${kind}`;
    line.textContent = words;
    facts.textContent = more;
    if (spoken.textContent !== words) spoken.textContent = words;
  }

  function progress({ stage, images, tokens }) {
    const all = items.length || 1;
    bar.value = ((stage === "story" ? all : 0) + Math.max(0, Math.min(images, all) - 0.5)) / (2 * all);
    progressed = tokens ? plural(tokens, "token") : "";
    const what = stage === "story" ? "Writing about" : "Analysing";
    state("busy", images ? `${what} image ${Math.min(images, all)} of ${all}` : "Analysing the images", [progressed, seconds()].filter(Boolean).join(" · "));
  }

  function write(more, back = 0) {
    const following = raw.scrollTop + raw.clientHeight >= raw.scrollHeight - 24;
    text = (back ? text.slice(0, -back) : text) + more;
    raw.textContent = text;
    written.hidden = false;
    if (following) raw.scrollTop = raw.scrollHeight;
  }

  /** Shows a view, at most once per animation frame. Entities keep their first colour. The gateway's pictures, which the last
      view has, are shown instead of the files: a browser turns, blends and animates them its own way. */
  function show(fuller, partial = null) {
    for (const answer of fuller.answers) {
      for (const entity of answer.entities) {
        if (!colours.has(entity.id)) colours.set(entity.id, colours.size);
        entity.colour = colours.get(entity.id);
      }
    }
    const images = items.map(({ url: src, width, height }, i) => ({ number: i + 1, src, width, height, ...fuller.images?.[i] }));
    view = { ...fuller, images, title: fuller.answers[0].title, partial };
    if (waiting === null) waiting = requestAnimationFrame(draw);
  }
  function draw() {
    waiting = null;
    if (main) main.show(view);
    else written.before(main = story(view, card));
  }

  /** The end of the request, whatever the reason. The text so far stays. `kind` is good, warning or error. */
  function end(kind, words, more = "", answer = {}) {
    clearInterval(tick);
    result = answer;
    if (answer.answer !== undefined) { text = answer.answer; raw.textContent = text; }
    written.hidden = !text;
    if (answer.view) show(answer.view);
    else if (view) show(view, "unfinished");
    state(kind, words, more);
    bar.value = kind === "good" ? 1 : bar.value;
    cancel.hidden = true;
    savePage.hidden = !view;
    saveJson.hidden = !view && !text;
  }

  /** Answer, images, request and results, in the form that this page can load again. */
  async function json() {
    const images = await Promise.all(items.map(async (item) => ({ name: item.name, data: await dataUrl(item.blob) })));
    const { view: _, ...found } = result;
    return JSON.stringify({ ...found, answer: text, whole: result.answer !== undefined, request, images, view: view && { ...view, images: undefined } }, null, 1);
  }

  function idle(words) { nothing.querySelector("p").textContent = words; }
  return { element, clear, begin, progress, write, show, end, idle, seconds, get text() { return text; } };
}

/** Three frames with a box in each, connected by a line. */
function illustration() {
  const frame = (x, y, turn, box) => svg("g", { transform: `translate(${x} ${y}) rotate(${turn})` },
    svg("rect", { class: "sheet", width: "92", height: "60", rx: "6" }),
    svg("path", { class: "hill", d: "M0 46 Q24 30 48 42 T92 38 V54 a6 6 0 0 1 -6 6 H6 a6 6 0 0 1 -6 -6 Z" }),
    svg("rect", { class: "one", x: box, y: "17", width: "20", height: "34", rx: "3" }));
  return svg("svg", { viewBox: "0 0 320 120", class: "illustration", "aria-hidden": "true" },
    frame(12, 24, -5, 18), frame(114, 16, 0, 38), frame(218, 18, 5, 56),
    svg("path", { class: "thread", d: "M44 70 C70 112 130 104 162 76 S244 98 284 72" }));
}
