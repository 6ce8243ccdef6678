// A static page of stories.

/** The whole page: a bar with the picker and switches, and one story below it. */
function page(views, title) {
  const card = h("aside.card", { id: "card", role: "tooltip", hidden: true });
  let shown = Math.max(0, views.findIndex((view) => `#${encodeURIComponent(view.id)}` === location.hash));
  const select = h("select", { "aria-label": "Story", onchange: () => go(select.selectedIndex) },
    views.map((view) => h("option", {}, view.id)));
  const step = (by, sign, label) => h("button", { type: "button", "aria-label": label, onclick: () => go((shown + by + views.length) % views.length) }, sign);
  const { tools, reset } = switches();
  const main = h("main");
  function go(number) {
    shown = number;
    select.selectedIndex = number;
    card.hidden = true;
    reset();
    main.replaceChildren(story(views[number], card));
    if (views.length > 1) history.replaceState(null, "", `#${encodeURIComponent(views[number].id)}`);
    scrollTo(0, 0);
  }
  document.body.append(
    h("header.bar", {}, h("div.wide", {}, h("span.brand", {}, title === views[0]?.id ? "storyreason" : title),
      views.length > 1 && h("nav.picker", { "aria-label": "Stories" }, step(-1, "‹", "Previous story"), select, step(1, "›", "Next story")),
      tools)),
    main, card);
  if (views.length) go(shown);
  else main.append(h("h1.empty.wide", {}, "There are no stories."));
}

const data = JSON.parse(document.getElementById("data").textContent);
page(data.views, data.title);
