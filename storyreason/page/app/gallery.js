// Evaluated stories of the test split: an answer next to its reference, or the answers of two models side by side.

const SIDES = "gallery-sides"; // the last comparison, for this tab

/** The gallery as an element. `open(place)` shows the shelf ("") or one story ("collection/story"). */
function gallery(index, key, card, tell) {
  const { collections } = index;
  const kept = JSON.parse(sessionStorage.getItem(SIDES) ?? "[0, -1]");
  const sides = kept[0] < collections.length && kept[1] < collections.length ? kept : [0, -1];
  const choose = (label, side, more) => h("label.side", {}, h("span", {}, label), h("select", { onchange: (event) => {
    sides[side] = Number(event.target.value);
    sessionStorage.setItem(SIDES, JSON.stringify(sides));
    open(place);
  } }, more, collections.map(({ name, f1 }, i) => h("option", { value: i, selected: i === sides[side] }, f1 === null ? name : `${name} · F1 ${f1.toFixed(2)}`))));
  const picks = h("div.sides", {}, choose("Show", 0), choose("next to", 1, h("option", { value: -1, selected: sides[1] < 0 }, "its reference")));
  const body = h("div.room");
  const element = h("section.gallery", { "aria-label": "Gallery" }, h("div.wide", {}, picks), body);
  let place = "", turn = 0;

  async function open(id) {
    place = id;
    card.hidden = true;
    const mine = ++turn;
    const story = collections[sides[0]].stories.find((one) => one.id === id);
    if (!id || !story) return body.replaceChildren(id ? h("p.empty.wide", {}, `${collections[sides[0]].name} has no story ${id}.`) : shelf());
    try {
      const shown = await compared(story);
      if (mine === turn) body.replaceChildren(walk(story), shown);
    } catch (error) {
      if (mine === turn) body.replaceChildren(h("p.empty.wide", { role: "alert" }, error.message));
    }
  }

  function shelf() {
    const { stories } = collections[sides[0]];
    return h("div.wide", {}, h("h1.hidden", {}, "Gallery"), h("ul.shelf", {}, stories.map((story) => h("li", {}, h("a", { href: `#gallery/${encodeURIComponent(story.id)}` },
      story.thumbnail && h("img", { src: story.thumbnail, alt: "", loading: "lazy" }), h("b", {}, story.id),
      h("span.soft", {}, `${plural(story.images, "image")}, ${plural(story.entities, "entity", "entities")}`),
      h("span.marks", {}, sides.filter((side) => side >= 0).map((side) => collections[side].stories.find(({ id }) => id === story.id)).filter(Boolean).map((one) =>
        h(`span.state.${one.errors ? "error" : "good"}`, {}, `${one.errors ? plural(one.errors, "error") : "valid"}${one.f1 === null ? "" : ` · F1 ${one.f1.toFixed(2)}`}`))))))));
  }

  /** Links to the shelf and to the neighbouring stories. */
  function walk(story) {
    const { stories } = collections[sides[0]];
    const at = stories.indexOf(story);
    const link = (by, sign, label) => h("a.button", { href: `#gallery/${encodeURIComponent(stories[(at + by + stories.length) % stories.length].id)}`, "aria-label": label }, sign);
    return h("nav.walk.wide", { "aria-label": "Stories" }, h("a.button", { href: "#gallery" }, "All stories"), link(-1, "‹", "Previous story"), link(1, "›", "Next story"),
      h("button", { type: "button", onclick: () => tell(images) }, "Tell these images"));
  }
  let images = [];

  /** One view with the answers of both sides. Both predictions use the colours of the reference, so theirs match. */
  async function compared(one) {
    const load = ({ address }) => ask(`/v1/stories/gallery/${address}`, { key: key() });
    const view = await load(one);
    images = view.images;
    if (sides[1] < 0) return story(view, card);
    const other = collections[sides[1]].stories.find(({ id }) => id === one.id);
    if (!other) throw new Error(`${collections[sides[1]].name} has no story ${one.id}: choose another collection to compare with.`);
    const beside = await load(other);
    const answers = [view, beside].map(({ answers: [first] }, i) => ({ ...first, label: collections[sides[i]].name }));
    return story({ ...view, answers }, card);
  }

  return { element, open };
}
