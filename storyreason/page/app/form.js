// The form: images and a request to tell a story, or images and an answer to check.

const KEY = "api-key"; // kept for this tab only, if the gateway requires one

/** The form. `tell(body, items)` and `read(body, items)` are called on submit, `clear()` when an answer is loaded; `say`
    announces a sentence to screen readers. */
function form({ tell, read, say, clear }) {
  const list = pictures(() => changed(), say, () => (mode === "tell" ? most : Infinity));
  const field = (label, control, hint) => h("label.field", {}, h("span.name", {}, label), control, hint && h("span.hint", {}, hint));
  const options = (name, choices) => h("fieldset.choice", {}, h("legend", {}, name), h("div", {}, choices.map(([value, label, title], i) =>
    h("label", { title }, h("input", { type: "radio", name: name.toLowerCase(), value, checked: i === 0 }), h("span", {}, label)))));

  const request = h("textarea", { rows: "2", maxlength: "4000", placeholder: "Create a story based on these images." });
  const decoding = options("Decoding", [["grounded", "Grounded", "The format of tables, IDs, boxes and tags is enforced"], ["free", "Free", "The output is not constrained"]]);
  const temperature = h("input", { type: "range", id: "temperature", min: "0", max: "1.5", step: "0.1", value: "0", oninput: () => heat() });
  const degree = h("output", { for: "temperature" });
  const tokens = h("input", { type: "number", min: "64", step: "1", inputmode: "numeric", placeholder: "the model's limit" });
  const seed = h("input", { type: "number", min: "0", max: "2147483647", step: "1", value: "0", inputmode: "numeric" });
  const model = h("select", { disabled: true }, h("option", {}, "loading …"));
  const key = h("input", { type: "password", autocomplete: "off", value: sessionStorage.getItem(KEY) ?? "", onchange: () => { sessionStorage.setItem(KEY, key.value); keyed(); } });
  const keyField = field("API key", key, "This gateway requires one. It is kept for this tab only.");
  keyField.hidden = !key.value;
  const heat = () => { degree.textContent = Number(temperature.value) ? Number(temperature.value).toFixed(1) : "0 · greedy"; };
  const telling = h("div.part", {},
    field("Request", request),
    field("Model", model),
    decoding,
    h("details.more", {}, h("summary", {}, "More settings"), h("div.part", {},
      h("div.field", {}, h("span.name", {}, h("label", { for: "temperature" }, "Temperature "), degree), temperature),
      h("div.pair", {}, field("Token limit", tokens), field("Seed", seed)))));

  const answer = h("textarea.text", { rows: "9", spellcheck: "false", placeholder: "<think>\n## Image 1\n…\n</think>\n<gdi image1>\n…" });
  const tale = h("textarea.text", { rows: "4", spellcheck: "false", placeholder: "<gdi image1>\n…" });
  const apart = h("details.more", {}, h("summary", {}, "The story is a separate text"), field("Story", tale, "Then the text above is only the analysis."));
  const loaded = h("input.hidden", { type: "file", id: "texts", accept: ".txt,.md,.json,text/plain,application/json", multiple: true, onchange: () => { load([...loaded.files]); loaded.value = ""; } });
  const reading = h("div.part", {},
    field("Answer: analysis and story", answer),
    h("div.row", {}, loaded, h("label.button", { for: "texts" }, "Load a file"), h("span.hint", {}, "A text file, or JSON saved by this page.")),
    apart);

  const fault = h("p.fault", { role: "alert" });
  const send = h("button.send", { type: "submit" });
  const element = h("form.form", { novalidate: true, onsubmit: (event) => { event.preventDefault(); submit(); }, onkeydown: (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) submit();
  } }, h("h2.hidden", {}, "Request"), list.element, telling, reading, keyField, fault, send);
  let mode = "tell", busy = false, most = Infinity, keyed = () => {};

  list.element.addEventListener("texts", ({ detail }) => { if (detail.length) { location.hash = "#read"; load(detail); } });
  [answer, tale].forEach((text) => text.addEventListener("input", () => changed()));

  function changed() {
    fault.textContent = "";
    const empty = mode === "tell" ? !list.items.length : !answer.value.trim();
    const many = mode === "tell" && list.items.length > most;
    send.disabled = busy || empty || many;
    if (many) fault.textContent = `The model takes at most ${most} images: remove ${list.items.length - most}.`;
    send.textContent = mode === "read" ? "Read the answer" : list.items.length > 1 ? `Tell a story from ${list.items.length} images` : "Tell a story";
  }

  function to(next) {
    mode = next;
    telling.hidden = mode !== "tell";
    reading.hidden = mode !== "read";
    changed();
  }

  const value = (set) => set.querySelector("input:checked").value;

  async function submit() {
    if (send.disabled) return;
    const wrong = [tokens, seed].find((control) => !control.checkValidity());
    if (mode === "tell" && wrong) {
      wrong.closest("details").open = true;
      fault.textContent = `${wrong === seed ? "Seed" : "Token limit"}: ${wrong.validationMessage}`;
      return wrong.focus();
    }
    if (mode === "read") {
      const text = tale.value.trim() ? { analysis: answer.value, story: tale.value } : { answer: answer.value };
      return read(text, [...list.items]);
    }
    const items = await Promise.all(list.items.map(prepared));
    const asked = { decoding: value(decoding), temperature: Number(temperature.value), seed: Number(seed.value || 0) };
    if (!model.disabled && model.value) asked.model = model.value;
    if (request.value.trim()) asked.request = request.value.trim();
    if (tokens.value) asked.max_tokens = Number(tokens.value);
    return tell(asked, items);
  }

  /** Loads text files, or JSON saved by this page together with its images. */
  async function load(files) {
    fault.textContent = "";
    for (const file of files) {
      const text = await file.text();
      if (!file.name.endsWith(".json")) { clear(); fill(text); continue; }
      try {
        const saved = JSON.parse(text);
        if (typeof saved.answer !== "string") throw new TypeError();
        list.set(await Promise.all((saved.images ?? []).map(({ name, data }) => picture(blobOf(data), name))));
        clear();
        fill(saved.answer);
      } catch {
        fault.textContent = `${file.name} was not saved by this page: load a text, or its JSON with "answer" and "images".`;
      }
    }
  }

  function fill(text) {
    answer.value = text;
    tale.value = "";
    changed();
    say(`Loaded a text of ${plural(text.split("\n").length, "line")}.`);
  }

  heat();
  to("tell");
  return {
    element, to, list, load, fill,
    get key() { return key.value; },
    get empty() { return !answer.value.trim(); },
    set busy(on) { busy = on; changed(); },
    set most(number) { if (number !== most) { most = number; changed(); } },
    set keyed(call) { keyed = call; },
    askKey() { keyField.hidden = false; },
    models(names) {
      model.replaceChildren(...(names.length ? names : ["no model is served"]).map((name) => h("option", { value: names.length ? name : "" }, name)));
      model.disabled = !names.length;
    },
  };
}
