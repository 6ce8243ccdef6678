// The web page of the gateway: tell, read, gallery. The #fragment of the address selects one.

/** What was checked of a valid answer; not that its story is right. */
function checked({ view, problems }) {
  const boxes = view.images.length ? ", and every mention has a box in its image" : "";
  return `The answer is well-formed${boxes}${problems.length ? `; ${plural(problems.length, "warning")}` : ""}.`;
}

function app() {
  const card = h("aside.card", { id: "card", role: "tooltip", hidden: true });
  const spoken = h("p.hidden", { role: "status", "aria-live": "polite" });
  const say = (sentence) => { spoken.textContent = sentence; };
  let asking = null; // the AbortController of the current request

  const right = shown(card, () => asking?.abort());
  const left = form({ tell, read, say, clear });
  const modes = { tell: "Tell", read: "Read", gallery: "Gallery" };
  const links = Object.entries(modes).map(([name, label]) => h("a", { href: `#${name}`, hidden: name === "gallery" }, label));
  const health = h("span.health", { title: location.origin }, h("i", { "aria-hidden": "true" }), h("span"));
  const { tools, reset } = switches();
  const desk = h("div.desk", {}, left.element, right.element);
  const room = h("div.room");
  let museum = null;
  left.keyed = () => greet();

  function go() {
    const [, name = "", place = ""] = /^#?([a-z]*)\/?(.*)$/.exec(location.hash) ?? [];
    const mode = name in modes ? name : "tell";
    links.forEach((link) => link.toggleAttribute("aria-current", link.hash === `#${mode}`));
    links.forEach((link) => { if (link.hasAttribute("aria-current")) link.setAttribute("aria-current", "page"); });
    document.title = `${modes[mode]} · storyreason`;
    reset();
    card.hidden = true;
    desk.hidden = mode === "gallery";
    room.hidden = mode !== "gallery";
    if (mode === "gallery") museum?.open(decodeURIComponent(place));
    else {
      left.to(mode);
      if (mode === "read" && left.empty && right.text) left.fill(right.text);
      right.idle(mode === "tell" ? "Add the frames of a scene. The model describes each of them, tracks the characters and tells a story in which every mention is linked to a box."
        : "Paste the text of an answer, or drop its file. It is parsed and checked without a model; images are optional.");
    }
    if (mode === "gallery") scrollTo(0, 0);
  }

  /** Cancels the current request and removes its story. */
  function clear() {
    asking?.abort();
    asking = null;
    left.busy = false;
    right.clear();
  }

  /** Runs one request at a time: sends it, shows the result, and reports when it fails or is cancelled. */
  async function carry(body, items, work) {
    asking?.abort();
    const mine = asking = new AbortController();
    left.busy = true;
    right.begin(items, body);
    right.element.focus({ preventScroll: true }); // the button that was pressed is disabled now, and would lose the focus
    if (matchMedia("(max-width: 900px)").matches) right.element.scrollIntoView();
    try {
      const images = await Promise.all(items.map((item) => dataUrl(item.blob)));
      await work({ ...body, images }, mine.signal);
    } catch (error) {
      if (asking !== mine) return;
      const rest = right.text ? " The text received so far is below." : "";
      if (mine.signal.aborted) right.end("warning", "Cancelled.", rest);
      else {
        if (error.code === 401) left.askKey();
        right.end("error", error instanceof Refusal ? error.message : `Internal error of this page: ${error.message}`, rest);
      }
    } finally {
      if (asking === mine) { asking = null; left.busy = false; }
    }
  }

  function tell(body, items) {
    return carry(body, items, async (request, signal) => {
      for await (const [event, data] of tale(request, left.key, signal)) {
        if (event === "progress") right.progress(data);
        else if (event === "text") right.write(data.text, data.back);
        else if (event === "view") right.show(data, "unfinished");
        else if (event === "error") throw new Refusal(data.error.message, data.error.code);
        else if (event === "done") {
          const facts = [data.version && `version ${data.version}`, right.seconds(), data.mended && `${plural(data.mended, "box", "boxes")} repaired`,
            data.cut && "cut off at the token limit"].filter(Boolean).join(" · ");
          right.end(data.valid && !data.cut ? "good" : "warning", data.cut ? "Done, but the answer was cut off." : data.valid ? `Done. ${checked(data)}` : "Done. The answer breaks some rules, marked below.", facts, data);
        }
      }
    });
  }

  function read(body, items) {
    return carry(body, items, async (request, signal) => {
      const data = await ask("/v1/stories/read", { body: request, key: left.key, signal });
      const errors = data.problems.filter(({ severity }) => severity === "error").length;
      right.end(data.valid ? "good" : "warning", data.valid ? `Checked. ${checked(data)}` : "Checked. The answer breaks some rules, marked below.",
        errors ? plural(errors, "error") : "", { answer: body.answer ?? "", ...data });
    });
  }

  /** Puts the frames of a gallery story into the form. */
  async function again(images) {
    left.list.set(await Promise.all(images.map(({ src, number }) => picture(blobOf(src), `image ${number}`))));
    location.hash = "#tell";
  }

  /** Asks the gateway what it serves and whether it has a gallery. */
  async function greet() {
    const status = await fetch("/healthz", { cache: "no-store" }).then((response) => response.json(), () => null);
    health.className = `health ${status?.healthy ? "good" : status ? "warning" : "error"}`;
    health.lastChild.textContent = !status ? "unreachable" : status.healthy ? (status.version ? `version ${status.version}` : "ready") : "no model";
    health.title = [location.origin, status?.problem].filter(Boolean).join(": ");
    const get = (path) => ask(path, { key: left.key }).catch((error) => { if (error.code === 401) left.askKey(); });
    const models = status?.healthy ? await get("/v1/models") : null;
    left.most = status?.images ?? Infinity;
    left.models(models?.data.map(({ id }) => id) ?? []);
    const index = museum ? null : await get("/v1/stories/gallery");
    if (!index?.collections.length) return;
    museum = gallery(index, () => left.key, card, again);
    room.replaceChildren(museum.element);
    links.at(-1).hidden = false;
    if (location.hash.startsWith("#gallery")) go();
  }

  const skip = h("a.skip", { href: "#story", onclick: (event) => { event.preventDefault(); right.element.focus(); right.element.scrollIntoView(); } }, "To the story");
  document.body.classList.add("app");
  document.body.append(
    h("header.bar", {}, h("div.wide", {}, skip, h("a.brand", { href: "#tell" }, "storyreason"), h("nav.modes", { "aria-label": "Parts" }, links), health, tools)),
    spoken, h("main", {}, desk, room), card);
  addEventListener("hashchange", go);
  addEventListener("online", greet);
  setInterval(() => document.visibilityState === "visible" && greet(), 30_000);
  go();
  greet();
}

app();
