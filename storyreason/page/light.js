// Hovering, focusing or tapping a mention, box, row or cast member highlights all its occurrences and shows a card.

/** The ID of an entity in the reference, which identifies it across both answers; null if it has no counterpart. */
const shared = (answer, id) => {
  const twin = answer.entities.find((e) => e.id === id)?.twin ?? null;
  return twin && (answer.role === "reference" ? id : twin);
};

/** Adds highlighting to one story. Every element with data-ids is inside one with data-answer; data-image has its image.
    `now()` returns the current view, which grows while a story is told. Call `renew` after elements were replaced. */
function lighting(root, now, card) {
  let pinned = null, shown = null;

  const occurrences = (answer, ids) => {
    const { answers } = now();
    const twins = ids.map((id) => shared(answers[answer], id)).filter(Boolean);
    return [...root.querySelectorAll("[data-ids]")].filter((element) => {
      const there = Number(element.closest("[data-answer]").dataset.answer);
      return element.dataset.ids.split(" ").some((id) => (there === answer ? ids.includes(id) : twins.includes(shared(answers[there], id))));
    });
  };

  const dark = () => {
    shown?.removeAttribute("aria-describedby");
    for (const element of root.querySelectorAll(".lit")) element.classList.remove("lit");
    root.classList.remove("lighting");
    card.hidden = true;
    shown = null;
  };

  const light = (element) => {
    if (shown === element) return;
    dark();
    shown = element;
    const answer = Number(element.closest("[data-answer]").dataset.answer);
    const ids = element.dataset.ids.split(" ");
    for (const other of occurrences(answer, ids)) other.classList.add("lit");
    root.classList.add("lighting");
    card.replaceChildren(...cardOf(now(), answer, ids, element));
    card.hidden = false;
    card.classList.toggle("pinned", pinned === element);
    element.setAttribute("aria-describedby", card.id);
    place(card, element);
  };

  const pin = (element) => {
    for (const old of root.querySelectorAll("[aria-pressed=true][data-ids]")) old.setAttribute("aria-pressed", "false");
    pinned = pinned === element ? null : element;
    if (pinned && pinned.hasAttribute("aria-pressed")) pinned.setAttribute("aria-pressed", "true");
    dark();
    if (pinned) light(pinned);
  };

  const target = (event) => event.target.closest?.("[data-ids]");
  const leave = () => (pinned ? light(pinned) : dark());
  root.addEventListener("pointerover", (event) => {
    if (event.pointerType !== "mouse") return;
    const element = target(event);
    if (element && !pinned) light(element);
    else if (!element) leave();
  });
  root.addEventListener("pointerleave", leave);
  root.addEventListener("focusin", (event) => {
    const element = target(event);
    if (element && !pinned && element.matches(":focus-visible")) light(element);
  });
  root.addEventListener("focusout", leave);
  root.addEventListener("click", (event) => {
    const element = target(event);
    if (element) pin(element);
    else if (pinned && !event.target.closest("button, summary, a")) pin(pinned);
  });
  root.addEventListener("keydown", (event) => {
    if (event.key === "Escape") { if (pinned) pin(pinned); else dark(); }
    const element = target(event);
    if (element && element.tagName !== "BUTTON" && (event.key === "Enter" || event.key === " ")) {
      event.preventDefault();
      pin(element);
    }
  });
  addEventListener("scroll", () => shown && place(card, shown), { passive: true });
  const renew = () => {
    if (pinned && !root.contains(pinned)) pinned = null;
    if (shown && !root.contains(shown)) dark();
  };
  return { renew };
}

/** Places the card near the element, inside the window and never over it: below or above the whole passage if there is
    room, so that the passage stays readable. (On phones the style sheet docks the card at the edge.) */
function place(card, element) {
  const at = element.getClientRects()[0] ?? element.getBoundingClientRect();
  const passage = element.closest(".passage")?.getBoundingClientRect() ?? at;
  const { width, height } = card.getBoundingClientRect();
  card.classList.toggle("top", at.bottom > innerHeight - height - 16); // only used by the style sheet for phones
  const gap = 10, wide = document.documentElement.clientWidth, high = document.documentElement.clientHeight;
  const tops = [passage.bottom + gap, passage.top - gap - height, at.bottom + gap, at.top - gap - height];
  const fits = tops.find((top) => top >= gap && top + height <= high);
  let left = at.left, top = fits;
  if (fits === undefined) {
    top = Math.min(Math.max(gap, at.top), high - height - gap);
    left = at.right + gap + width <= wide ? at.right + gap : at.left - gap - width;
  }
  card.style.left = `${Math.min(Math.max(gap, left), wide - width - gap)}px`;
  card.style.top = `${Math.max(gap, top)}px`;
}

/** The content of the card: each entity with its crops and its row for this image, then the problems of the element. */
function cardOf(view, answer, ids, element) {
  const own = view.answers[answer];
  const image = Number(element.dataset.image) || null;
  const entities = ids.map((id) => {
    const entity = own.entities.find((e) => e.id === id);
    if (!entity) return h("div", {}, h("code", {}, id));
    const seen = entity.images.filter((place) => place.box);
    const now = seen.find((place) => place.image === image);
    const scene = own.scenes.find((s) => s.image === (now ?? entity.images[0])?.image);
    const [table, row] = (scene?.tables ?? []).flatMap((t) => t.rows.map((r) => [t, r])).find(([, r]) => r.id === id) ?? [];
    // The cells of the row if there is one entity; for several only their crops.
    const facts = row && ids.length === 1 ? row.cells.map((cell, i) => [table.columns[i], cell])
      .filter(([name, cell], i) => i > 0 && cell && cell !== entity.name && name !== BOX_COLUMN) : [];
    const twin = view.answers.length > 1 && entity.twin;
    return paint(h("div.entity", {},
      h("div.title", {}, entity.name, h("code", {}, id), h("span.soft.id", {}, KINDS[entity.kind])),
      h("div.crops", {}, seen.slice(0, 12).map((place) =>
        h(`figure${place.image === image ? ".now" : ""}`, {},
          crop(view.images[place.image - 1], place.box, entity.colour), h("figcaption", {}, place.image)))),
      facts.length > 0 && h("dl", {}, facts.map(([name, cell]) => [h("dt", {}, name), h("dd", {}, cell)])),
      !entity.known && h("p.problem", {}, "Not in any table of the analysis."),
      twin && h("p.soft", {}, `${own.role === "prediction" ? "In the reference" : "In the prediction"}: `, h("code", {}, twin),
        now?.iou ? `, overlap here ${Math.round(100 * now.iou)} %` : "")), [entity.colour]);
  });
  const problems = (element.dataset.problems ?? "").split(" ").filter(Boolean).map((i) => own.problems[Number(i)]);
  return [...entities, ...problems.map((p) => h(`p.problem${p.severity === "error" ? "" : ".mild"}`, {}, p.message))];
}
