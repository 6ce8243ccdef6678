// Shows the views that Python made (storyreason/page/view.py). It parses no tags and no tables.

const ROLES = { prediction: "Prediction", reference: "Reference" };
const plural = (n, one, many = one + "s") => `${n} ${n === 1 ? one : many}`;
const pluck = (indices) => (indices?.length ? indices.join(" ") : null);
const severity = (answer, indices) => (indices ?? []).some((i) => answer.problems[i].severity === "error") ? ".wrong" : ".wrong.mild";
const wrong = (answer, part) => (part.problems?.length ? severity(answer, part.problems) : "");
const nameOf = (answer, id) => answer.entities.find((e) => e.id === id)?.name ?? id;
const coloursOf = (answer, ids) => ids.map((id) => answer.entities.find((e) => e.id === id)?.colour ?? 0);

/** One line that says how an answer fares; what is wrong with it and all its scores unfold below. */
function verdict(answer, root) {
  const errors = answer.problems.filter((p) => p.severity === "error").length;
  const warnings = answer.problems.length - errors;
  const [state, words] = !answer.readable ? ["error", "cannot be read"]
    : errors ? ["error", `breaks the rules: ${plural(errors, "error")}`] : ["good", "valid"];
  const scores = Object.entries(answer.scores);
  const first = scores.filter(([name]) => HEADLINES.some((end) => name === end || name.endsWith(`/${end}`)));
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
const HEADLINES = ["grounding/f1", "grounding/precision", "grounding/recall", "identity/idf1"];
const list = (scores) => h("dl.scores", {}, scores.map(([name, value]) =>
  h("div", {}, h("dt", {}, name), h("dd", {}, Number(value.toFixed(3))))));

/** All problems, rule by rule, errors first; each leads to where it stands. */
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
  if (!answer.entities.length) return h("p.empty", {}, "Nobody and nothing in it.");
  return rove(h("div.cast", { role: "group", "aria-label": "Cast" }, answer.entities.map((entity) => {
    const best = entity.images.filter((place) => place.box).sort((a, b) => area(b.box) - area(a.box))[0];
    const seen = view.images.map((image) => {
      const place = entity.images.find((p) => p.image === image.number);
      return h(`i${place?.box ? ".here" : place?.mentions ? ".told" : ""}`);
    });
    const where = entity.images.filter((place) => place.box).map((place) => place.image).join(", ");
    return paint(h("button.person", { type: "button", "data-ids": entity.id, "aria-pressed": "false", "aria-label":
        `${entity.name}, ${entity.id}, ${where ? `in image ${where}` : "in no image"}, ${plural(entity.mentions, "mention")}` },
      crop(view.images[best?.image - 1], best?.box, entity.colour),
      h("span.names", {}, h("span.name", {}, entity.name), h("span.id", {}, `${entity.id} · ${entity.mentions}×`), h("span.seen", { "aria-hidden": "true" }, seen))),
      [entity.colour]);
  })));
}
const area = ([x1, y1, x2, y2]) => (x2 - x1) * (y2 - y1);

function frame(view, answer, scene) {
  const image = view.images[scene.image - 1];
  if (!image) return h("p.empty", {}, `The story has no image ${scene.image}.`);
  const percent = (value, of) => `${Math.min(100, Math.max(0, (100 * value) / of))}%`;
  const boxes = [...scene.boxes].sort((a, b) => area(b.box) - area(a.box)).map(({ id, box, iou, problems }) => {
    const [x1, y1, x2, y2] = box;
    const entity = answer.entities.find((e) => e.id === id);
    const element = paint(h(`button.box${wrong(answer, { problems })}`, { type: "button", "data-ids": id, "data-image": scene.image,
        "data-kind": entity.kind, "data-problems": pluck(problems), "aria-pressed": "false", "aria-label": `${entity.name}, ${id}, in image ${scene.image}` },
      h("span.label", {}, entity.name, iou && h("span.iou", {}, `${Math.round(100 * iou)} %`))), [entity.colour]);
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

function passage(answer, scene) {
  if (!scene.parts.length) return h("p.empty", {}, "The story does not tell this image.");
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

function table(answer, { columns, rows }, image) {
  return h("div.scroll", { tabindex: "0", role: "region", "aria-label": "Table" }, h("table", {},
    h("thead", {}, h("tr", {}, columns.map((name) => h("th", { scope: "col" }, name)))),
    rove(h("tbody", {}, rows.map(({ id, cells, problems: found }) => paint(
      h("tr", { "data-ids": id, "data-image": image, "data-problems": pluck(found) }, cells.map((cell, i) =>
        h(`td${columns[i] === "Bounding Box" ? ".box-text" : ""}`, {}, i === 0 && found?.length > 0 &&
          h(`span.mark${severity(answer, found).replace(".wrong", "")}`, { role: "img", "aria-label": "breaks a rule",
            title: found.map((p) => answer.problems[p].message).join("\n") }, "!"), cell))),
      id ? coloursOf(answer, [id]) : []))))));
}

function scene(view, answer, number) {
  const told = answer.scenes.find((s) => s.image === number);
  if (!told) return h("p.empty", {}, "Nothing about this image.");
  const image = view.images[number - 1];
  const telling = h(`div.telling${image && isSmall(image) ? ".small" : ""}`, {}, frame(view, answer, told), passage(answer, told));
  if (image) telling.style.setProperty("--w", `${image.width}px`);
  return [
    telling,
    told.tables.length > 0 && h("details.analysis", {}, h("summary", {}, "Analysis of this image"),
      h("div.tables", {}, told.tables.map((t) => h("section", {}, h("h4", {}, t.title), table(answer, t, number))))),
  ];
}

function arc(view, answer) {
  if (!answer.phases.length) return h("p.empty", {}, "No narrative structure.");
  return h("ul.arc", {}, answer.phases.map((phase) => h("li", { "data-problems": pluck(phase.problems) },
    h("div", {}, h("div.name", {}, h(`span${wrong(answer, phase)}`, {}, phase.name)),
      h("div.span", { role: "img", "aria-label": `images ${phase.images.join(", ")}` },
        view.images.map(({ number }) => h(`b${phase.images.includes(number) ? ".here" : ""}`, {}, number)))),
    h("div", {}, h("p", {}, phase.description), h("p.soft", {}, phase.events)))));
}

/** One story as an element. Streaming callers may call it again with a fuller view. */
function story(view, card) {
  view.answers.forEach((answer, i) => { answer.index = String(i); });
  const root = h(`main${view.answers.length > 1 ? ".two" : ""}`, { id: "story" });
  const two = view.answers.length > 1;
  const cells = (fill) => h("div.cells", {}, view.answers.map((answer, i) =>
    h("div.cell", { "data-answer": i, role: two ? "group" : null, "aria-label": two ? ROLES[answer.role] : null }, fill(answer))));
  const numbers = [...new Set([...view.images.map((image) => image.number), ...view.answers.flatMap((a) => a.scenes.map((s) => s.image))])].sort((a, b) => a - b);
  const phases = (number) => [...new Set(view.answers.flatMap((a) => a.phases.filter((p) => p.images.includes(number)).map((p) => p.name)))].join(" · ");

  root.append(
    h("section.head.wide", {},
      h("h1", {}, view.title ?? view.id),
      h("p.counts", {}, h("span", {}, plural(view.images.length, "image")), view.answers.map((a) => h("span", {},
        `${two ? ROLES[a.role].toLowerCase() + ": " : ""}${plural(a.entities.length, "entity", "entities")}, ${plural(a.entities.reduce((n, e) => n + e.mentions, 0), "mention")}`))),
      legend(two)),
    h("section.wide.players", { "aria-label": "Cast" }, cells((answer) => [
      two && h("h2", {}, ROLES[answer.role]), verdict(answer, root),
      answer.readable ? cast(view, answer) : h("pre.raw", { tabindex: "0" }, answer.raw)])),
    h("div.scenes", {}, numbers.map((number) => h("section.scene", { id: `image-${number}`, "aria-label": `Image ${number}` }, h("div.wide", {},
      h("header", {}, h("h2", {}, `Image ${number}`), h("span.eyebrow", {}, phases(number))),
      cells((answer) => [two && h("span.eyebrow", {}, ROLES[answer.role]), answer.readable ? scene(view, answer, number) : h("p.empty", {}, "Cannot be read.")]))))),
    h("section.scene", { id: "arc" }, h("div.wide", {}, h("header", {}, h("h2", {}, "Narrative structure")),
      cells((answer) => [two && h("span.eyebrow", {}, ROLES[answer.role]), arc(view, answer)]))));
  lighting(root, view, card);
  return root;
}

function legend(two) {
  const sample = (kind, text, meaning) => h("span", {}, paint(h(`span.mention.${kind}`, {}, text), [kind === "gdl" ? 2 : kind === "gda" ? 0 : 1]), ` ${meaning}`);
  return h("div.legend", { "aria-label": "Legend" },
    sample("gdo", "she", "a person or thing"), sample("gda", "ran", "who acts"), sample("gdl", "the shore", "a place"),
    h("span", {}, h("span.wrong", {}, "she"), " breaks a rule"),
    two && h("span", {}, h("b", {}, "84 %"), " overlap with the reference's box"),
    h("span", {}, "One colour is one entity. Point at it, tap it, or use Tab and the arrow keys; Escape lets go."));
}

/** The whole page: a bar with the picker and switches, and one story below it. */
function page(views, title) {
  const card = h("aside.card", { id: "card", role: "tooltip", hidden: true });
  let shown = Math.max(0, views.findIndex((view) => `#${encodeURIComponent(view.id)}` === location.hash));
  const select = h("select", { "aria-label": "Story", onchange: () => go(select.selectedIndex) },
    views.map((view) => h("option", {}, view.id)));
  const step = (by, sign, label) => h("button", { type: "button", "aria-label": label, onclick: () => go((shown + by + views.length) % views.length) }, sign);
  const toggle = (label, press, wordy = true) => {
    const button = h(`button${wordy ? ".wordy" : ""}`, { type: "button", "aria-pressed": "false", onclick: () => {
      const on = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", String(on));
      press(on);
    } }, label);
    return button;
  };
  const tables = toggle("All tables", (on) => document.querySelectorAll("details.analysis").forEach((d) => { d.open = on; }), false);
  const theme = h("button", { type: "button", "aria-label": "Dark or light", title: "Dark or light", onclick: () => {
    const dark = getComputedStyle(document.documentElement).colorScheme === "dark"
      || (getComputedStyle(document.documentElement).colorScheme !== "light" && matchMedia("(prefers-color-scheme: dark)").matches);
    document.documentElement.style.colorScheme = dark ? "light" : "dark";
  } }, "◐");
  function go(number) {
    shown = number;
    select.selectedIndex = number;
    card.hidden = true;
    tables.setAttribute("aria-pressed", "false");
    document.querySelector("#story")?.remove();
    card.before(story(views[number], card));
    if (views.length > 1) history.replaceState(null, "", `#${encodeURIComponent(views[number].id)}`);
    scrollTo(0, 0);
  }
  document.body.append(
    h("header.bar", {}, h("div.wide", {}, h("span.brand", {}, title === views[0]?.id ? "storyreason" : title),
      views.length > 1 && h("nav.picker", { "aria-label": "Stories" }, step(-1, "‹", "Previous story"), select, step(1, "›", "Next story")),
      h("div.tools", {}, toggle("Hide boxes", (on) => document.body.classList.toggle("no-boxes", on)), tables, theme))),
    card);
  if (views.length) go(shown);
  else card.before(h("p.empty.wide", {}, "No story."));
}

const data = JSON.parse(document.getElementById("data").textContent);
page(data.views, data.title);
