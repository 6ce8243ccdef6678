// Shows one view made by Python (storyreason/page/view.py). It does not parse tags or tables.

const ROLES = { prediction: "Prediction", reference: "Reference" };
const labelOf = (answer) => answer.label ?? ROLES[answer.role];
const plural = (n, one, many = one + "s") => `${n} ${n === 1 ? one : many}`;
const pluck = (indices) => (indices?.length ? indices.join(" ") : null);
const severity = (answer, indices) => (indices ?? []).some((i) => answer.problems[i].severity === "error") ? ".wrong" : ".wrong.mild";
const wrong = (answer, part) => (part.problems?.length ? severity(answer, part.problems) : "");
const nameOf = (answer, id) => answer.entities.find((e) => e.id === id)?.name ?? id;
const coloursOf = (answer, ids) => ids.map((id) => answer.entities.find((e) => e.id === id)?.colour ?? 0);

/** A one-line summary of an answer; its problems and all its scores unfold below. */
function verdict(answer, root, view) {
  if (view.partial) return h("div.verdict", {}, h("span.state.open", {}, view.partial));
  const errors = answer.problems.filter((p) => p.severity === "error").length;
  const warnings = answer.problems.length - errors;
  const [state, words] = !answer.readable ? ["error", "unreadable"]
    : errors ? ["error", plural(errors, "error")] : ["good", "valid"];
  const scores = Object.entries(answer.scores);
  const first = scores.filter(([name]) => HEADLINES.includes(name));
  const line = [
    h(`span.state.${state}`, {}, words),
    warnings > 0 && h("span.state.warning", {}, plural(warnings, "warning")),
    first.length > 0 && list(first.map(([name, value]) => [name.split("/").at(-1), value])),
  ];
  if (!answer.problems.length && !scores.length) return h("div.verdict", {}, line);
  return h("details.verdict", {}, h("summary", {}, line),
    answer.problems.length > 0 && problems(answer, root),
    scores.length > 0 && list(scores));
}
const list = (scores) => h("dl.scores", {}, scores.map(([name, value]) =>
  h("div", {}, h("dt", {}, name), h("dd", {}, Number(value.toFixed(3))))));

/** All problems, grouped by rule, errors first; clicking one scrolls to its place. */
function problems(answer, root) {
  const go = (i) => {
    const at = [...root.querySelectorAll(`[data-answer="${answer.index}"] [data-problems]`)]
      .find((element) => element.dataset.problems.split(" ").includes(String(i)))
      ?? root.querySelector(`#image-${answer.problems[i].image}`);
    at?.closest("details")?.setAttribute("open", "");
    at?.scrollIntoView({ block: "center" });
    at?.focus?.();
  };
  const where = (problem) => [problem.image && `image ${problem.image}`, problem.line && `line ${problem.line}`].filter(Boolean).join(", ");
  const rules = Map.groupBy(answer.problems.map((problem, i) => ({ ...problem, i })), (problem) => problem.rule);
  const ordered = [...rules.values()].sort((a, b) => (b[0].severity === "error") - (a[0].severity === "error"));
  return h("ul.problems", {}, ordered.map((found) => h("li", {},
    h(`span.mark${found[0].severity === "error" ? "" : ".mild"}`, { role: "img", "aria-label": found[0].severity }, "!"),
    h("div", {}, h("p", {}, found[0].wanted, h("code", {}, ` ${found[0].rule}`)), h("ul", {}, found.map((problem) =>
      h("li", {}, h("button", { type: "button", onclick: () => go(problem.i) }, problem.message), h("span.where", {}, ` ${where(problem)}`))))))));
}

function cast(view, answer) {
  if (!answer.entities.length) return h("p.empty", {}, view.partial ? "No entities yet." : "No entities.");
  return rove(h("div.cast", { role: "group", "aria-label": "Cast" }, answer.entities.map((entity) => {
    const best = entity.images.filter((place) => place.box).sort((a, b) => area(b.box) - area(a.box))[0];
    const seen = view.images.map((image) => {
      const place = entity.images.find((p) => p.image === image.number);
      return h(`i${place?.box ? ".here" : place?.mentions ? ".mentioned" : ""}`);
    });
    const where = entity.images.filter((place) => place.box).map((place) => place.image).join(", ");
    return paint(h("button.person", { type: "button", "data-ids": entity.id, "aria-pressed": "false" },
      crop(view.images[best?.image - 1], best?.box, entity.colour),
      h("span.names", {}, h("span.name", {}, entity.name), h("span.id", {}, `${entity.id} · ${entity.mentions}×`), h("span.seen", { role: "img", "aria-label": where ? `in image ${where}` : "in no image" }, seen))),
      [entity.colour]);
  })));
}
const area = ([x1, y1, x2, y2]) => (x2 - x1) * (y2 - y1);

function frame(view, answer, scene) {
  const image = view.images[scene.image - 1];
  if (!image) return h("p.empty", {}, view.images.length ? `The story has no image ${scene.image}.` : "No image was given.");
  const percent = (value, of) => `${Math.min(100, Math.max(0, (100 * value) / of))}%`;
  const boxes = [...scene.boxes].sort((a, b) => area(b.box) - area(a.box)).map(({ id, box, iou, problems }) => {
    const [x1, y1, x2, y2] = box;
    const entity = answer.entities.find((e) => e.id === id);
    const element = paint(h(`button.box${wrong(answer, { problems })}`, { type: "button", "data-ids": id, "data-image": scene.image,
        "data-kind": entity.kind, "data-problems": pluck(problems), "aria-pressed": "false", "aria-label": `${entity.name}${iou ? ` ${Math.round(100 * iou)} %` : ""}, ${id}, in image ${scene.image}` },
      h("span.label", {}, entity.name, iou && " ", iou && h("span.iou", {}, `${Math.round(100 * iou)} %`))), [entity.colour]);
    if (y1 < 0.14 * image.height) element.classList.add("low");
    if (x1 > 0.6 * image.width) element.classList.add("right");
    element.style.left = percent(x1, image.width);
    element.style.top = percent(y1, image.height);
    element.style.width = percent(Math.min(x2, image.width) - x1, image.width);
    element.style.height = percent(Math.min(y2, image.height) - y1, image.height);
    return element;
  });
  const names = scene.boxes.map(({ id }) => nameOf(answer, id));
  const figure = rove(h(`div.frame${boxes.length > 7 ? ".crowded" : ""}`, {},
    h("img", { src: image.src, width: image.width, height: image.height, alt: `Image ${scene.image}${names.length ? ` with ${names.join(", ")}` : ""}` }), boxes));
  return h("figure", {}, figure, scene.setting && h("figcaption.setting", {}, scene.setting));
}

function passage(view, answer, scene) {
  if (!scene.parts.length) return h("p.empty", {}, view.partial ? "Not written yet." : "The story has no text for this image.");
  return rove(h("p.passage", {}, scene.parts.map((part) => {
    if (!part.ids) {
      return part.problems?.length
        ? h(`span${wrong(answer, part)}`, { "data-problems": pluck(part.problems), tabindex: "-1", title: part.problems.map((i) => answer.problems[i].message).join("\n") }, part.text)
        : part.text;
    }
    const element = h(`span.mention.${part.kind}${wrong(answer, part)}`, { role: "button", "data-ids": part.ids.join(" "), "data-image": scene.image,
      "data-problems": pluck(part.problems), "aria-pressed": "false" }, part.text);
    return paint(element, coloursOf(answer, part.ids));
  })));
}

function table(answer, { columns, rows }, image, label) {
  return h("div.scroll", { tabindex: "0", role: "region", "aria-label": label }, h("table", {},
    h("thead", {}, h("tr", {}, columns.map((name) => h("th", { scope: "col" }, name)))),
    rove(h("tbody", {}, rows.map(({ id, cells, problems: found }) => paint(
      h("tr", { "data-ids": id, "data-image": image, "data-problems": pluck(found) }, cells.map((cell, i) =>
        h(`td${columns[i] === BOX_COLUMN ? ".box-text" : ""}`, {}, i === 0 && found?.length > 0 &&
          h(`span.mark${severity(answer, found).replace(".wrong", "")}`, { role: "img", "aria-label": "breaks a rule",
            title: found.map((p) => answer.problems[p].message).join("\n") }, "!"), cell))),
      id ? coloursOf(answer, [id]) : []))))));
}

function scene(view, answer, number) {
  const found = answer.scenes.find((s) => s.image === number);
  const image = view.images[number - 1];
  if (!found) return h("p.empty", {}, "The answer has nothing about this image.");
  const telling = h(`div.telling${image && isSmall(image) ? ".small" : ""}`, {}, frame(view, answer, found), passage(view, answer, found));
  if (image) telling.style.setProperty("--w", `${image.width}px`);
  return [
    telling,
    found.tables.length > 0 && h("details.analysis", {}, h("summary", {}, "Analysis of this image"),
      h("div.tables", {}, found.tables.map((t) => h("section", {}, h("h3", {}, t.title), table(answer, t, number, `${t.title}, image ${number}`))))),
  ];
}

function arc(view, answer) {
  if (!answer.phases.length) return h("p.empty", {}, view.partial ? "Not written yet." : "No narrative structure.");
  return h("ul.arc", {}, answer.phases.map((phase) => h("li", { "data-problems": pluck(phase.problems) },
    h("div", {}, h("div.name", {}, h(`span${wrong(answer, phase)}`, {}, phase.name)),
      h("div.span", { role: "img", "aria-label": `images ${phase.images.join(", ")}` },
        view.images.map(({ number }) => h(`b${phase.images.includes(number) ? ".here" : ""}`, {}, number)))),
    h("div", {}, h("p", {}, phase.description), h("p.soft", {}, phase.events)))));
}

/** One story as an element. `root.show(view)` shows a newer view and leaves unchanged sections alone. */
function story(view, card) {
  const root = h("article", { id: "story" });
  const lights = lighting(root, () => view, card);
  root.show = (fuller) => {
    const before = new Map([...root.children].map((section) => [section.id, section]));
    const known = before.size > 0;
    view = fuller;
    view.answers.forEach((answer, i) => { answer.index = String(i); });
    root.classList.toggle("two", view.answers.length > 1);
    const sections = known ? parts(view, root).map((section) => settled(section, before.get(section.id))) : parts(view, root);
    root.replaceChildren(...sections);
    lights.renew();
  };
  root.show(view);
  return root;
}

/** The existing section if the new one looks the same, else the new one with the same details open. */
function settled(section, before) {
  section.made = section.outerHTML;
  if (before?.made === section.made) return before;
  const folds = before?.querySelectorAll("details") ?? [];
  section.querySelectorAll("details").forEach((fold, i) => { fold.open = folds[i]?.open ?? false; });
  if (!before) section.classList.add("new");
  return section;
}

/** The sections of a story: heading, cast, images, narrative structure. */
function parts(view, root) {
  const two = view.answers.length > 1;
  const cells = (fill) => h("div.cells", {}, view.answers.map((answer, i) =>
    h("div.cell", { "data-answer": i, role: two ? "group" : null, "aria-label": two ? labelOf(answer) : null }, fill(answer))));
  const numbers = [...new Set([...view.images.map((image) => image.number), ...view.answers.flatMap((a) => a.scenes.map((s) => s.image))])].sort((a, b) => a - b);
  const phases = (number) => [...new Set(view.answers.flatMap((a) => a.phases.filter((p) => p.images.includes(number)).map((p) => p.name)))].join(" · ");

  return [
    h("section.head.wide", { id: "head" },
      h("h1", {}, view.title ?? view.id),
      h("p.counts", {}, h("span", {}, plural(view.images.length, "image")), view.answers.map((a) => h("span", {},
        `${two ? labelOf(a).toLowerCase() + ": " : ""}${plural(a.entities.length, "entity", "entities")}, ${plural(a.entities.reduce((n, e) => n + e.mentions, 0), "mention")}`))),
      legend(two)),
    h("section.wide.players", { id: "players", "aria-label": "Cast" }, cells((answer) => [
      two && h("h2", {}, labelOf(answer)), verdict(answer, root, view),
      answer.readable || view.partial ? cast(view, answer) : h("pre.raw", { tabindex: "0" }, answer.raw)])),
    numbers.map((number) => h("section.scene", { id: `image-${number}`, "aria-label": `Image ${number}` }, h("div.wide", {},
      h("header", {}, h("h2", {}, `Image ${number}`), h("span.eyebrow", {}, phases(number))),
      cells((answer) => [two && h("span.eyebrow", {}, labelOf(answer)),
        answer.readable || view.partial ? scene(view, answer, number) : h("p.empty", {}, "Unreadable.")])))),
    h("section.scene", { id: "arc" }, h("div.wide", {}, h("header", {}, h("h2", {}, "Narrative structure")),
      cells((answer) => [two && h("span.eyebrow", {}, labelOf(answer)), arc(view, answer)]))),
  ].flat();
}

function legend(two) {
  const sample = (kind, text, meaning) => h("span", {}, paint(h(`span.mention.${kind}`, {}, text), [kind === "gdl" ? 2 : kind === "gda" ? 0 : 1]), ` ${meaning}`);
  return h("div.legend", { role: "group", "aria-label": "Legend" },
    sample("gdo", "she", "a character or thing"), sample("gda", "ran", "an action"), sample("gdl", "the shore", "a place"),
    h("span", {}, h("span.wrong", {}, "she"), " breaks a rule"),
    two && h("span", {}, h("b", {}, "84 %"), " overlap with the reference's box"),
    h("span", {}, "Each entity has one colour. Hover over it, tap it, or use Tab and the arrow keys; press Escape to deselect."));
}
