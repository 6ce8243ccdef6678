// The images of a story: adding (from files, by drag and drop, by pasting), ordering, removing.

const LARGEST = 2048; // pixels per side; models of this kind do not use more of a frame

/** The list as an element, with `items` ({name, blob, url, width, height}), `add(files)`, `set(items)`.
    `changed()` is called after each change; `say(sentence)` announces a sentence to screen readers; `most()` is the
    number of images that the model accepts. */
function pictures(changed, say, most) {
  let items = [];
  const input = h("input.hidden", { type: "file", id: "files", accept: "image/png,image/jpeg,image/webp,image/gif", multiple: true,
    onchange: () => { add([...input.files]); input.value = ""; } });
  const list = h("ol.pictures", { "aria-label": "Images in order" });
  const drop = h("label.drop", { for: "files" }, h("b", {}, "Choose images"), h("b.more", {}, "Add images"), h("span.soft", {}, "or drop or paste them, in the order of the story"));
  const fault = h("p.fault", { role: "alert" });
  const element = h("div.images", {}, list, input, drop, fault);

  async function add(files) {
    fault.textContent = "";
    const before = items.length;
    for (const [i, file] of files.entries()) {
      if (items.length >= most()) {
        fault.textContent = `${plural(files.length - i, "image was", "images were")} not added: the model takes at most ${most()} images.`;
        break;
      }
      try {
        items.push(await picture(file, file.name));
      } catch {
        fault.textContent = `${file.name || "This file"} is not a picture that this browser can show: use PNG, JPEG, WebP or GIF.`;
      }
    }
    show();
    if (items.length > before) say(`${plural(items.length - before, "image")} added, ${items.length} in total.`);
  }

  function set(fresh) {
    items = [...fresh];
    show();
  }

  function move(item, to) {
    const from = items.indexOf(item);
    if (to < 0 || to >= items.length || to === from) return;
    items.splice(to, 0, ...items.splice(from, 1));
    show();
    say(`${item.name} is image ${to + 1} of ${items.length}.`);
  }

  function remove(item) {
    const at = items.indexOf(item);
    items.splice(at, 1);
    show();
    say(`${item.name} removed, ${items.length} left.`);
    (list.children[Math.min(at, items.length - 1)]?.querySelector(".thumb") ?? input).focus();
  }

  /** Reuses the elements of remaining items, so that focus and a drag in progress are kept. */
  function show() {
    const known = new Map([...list.children].map((li) => [li.item, li]));
    const rows = items.map((item) => known.get(item) ?? row(item));
    const focused = document.activeElement;
    list.replaceChildren(...rows);
    if (list.contains(focused)) focused.focus();
    rows.forEach((li, i) => {
      li.querySelector(".number").textContent = i + 1;
      li.querySelector(".thumb").setAttribute("aria-label",
        `Image ${i + 1} of ${rows.length}, ${items[i].name}. Use the arrow keys to move it, Delete to remove it.`);
    });
    element.classList.toggle("some", items.length > 0);
    changed();
  }

  function row(item) {
    const small = (sign, label, press) => h("button", { type: "button", tabindex: "-1", "aria-label": `${label} ${item.name}`, title: label, onclick: press }, sign);
    const thumb = h("button.thumb", { type: "button", title: item.name, onkeydown: (event) => {
      const step = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 }[event.key];
      if (step) move(item, items.indexOf(item) + step);
      else if (event.key === "Home") move(item, 0);
      else if (event.key === "End") move(item, items.length - 1);
      else if (event.key === "Delete" || event.key === "Backspace") remove(item);
      else return;
      event.preventDefault();
      thumb.focus();
    } }, h(`img${isSmall(item) ? ".small" : ""}`, { src: item.url, alt: "", draggable: "false" }), h("span.number", { "aria-hidden": "true" }));
    const li = h("li", {}, thumb, h("span.hands", {},
      small("‹", "Move forward", () => move(item, items.indexOf(item) - 1)),
      small("×", "Remove", () => remove(item)),
      small("›", "Move back", () => move(item, items.indexOf(item) + 1))));
    li.item = item;
    thumb.addEventListener("pointerdown", (event) => drag(event, li, item));
    return li;
  }

  /** Drag and drop with mouse or pen; touch scrolls, and uses the buttons instead. */
  function drag(event, li, item) {
    if (event.button !== 0 || event.pointerType === "touch") return;
    const over = (moved) => {
      li.classList.add("dragged");
      const other = document.elementsFromPoint(moved.clientX, moved.clientY).map((e) => e.closest(".pictures > li")).find((e) => e && e !== li);
      if (!other) return;
      const { left, width } = other.getBoundingClientRect();
      const forward = items.indexOf(other.item) > items.indexOf(item);
      const past = moved.clientX > left + width / 2;
      if (forward === past) move(item, items.indexOf(other.item));
    };
    const end = () => {
      li.classList.remove("dragged");
      removeEventListener("pointermove", over);
    };
    addEventListener("pointermove", over);
    addEventListener("pointerup", end, { once: true });
    addEventListener("pointercancel", end, { once: true });
  }

  let depth = 0; // how many nested elements are being dragged over
  const files = (event) => event.dataTransfer?.types.includes("Files");
  addEventListener("dragenter", (event) => { if (files(event)) { depth += 1; element.classList.add("over"); } });
  addEventListener("dragleave", (event) => { if (files(event) && --depth <= 0) element.classList.remove("over"); });
  addEventListener("dragover", (event) => { if (files(event)) event.preventDefault(); });
  addEventListener("drop", (event) => {
    if (!files(event)) return;
    event.preventDefault();
    depth = 0;
    element.classList.remove("over");
    const dropped = [...event.dataTransfer.files];
    add(dropped.filter((file) => file.type.startsWith("image/")));
    element.dispatchEvent(new CustomEvent("texts", { detail: dropped.filter((file) => !file.type.startsWith("image/")) }));
  });
  addEventListener("paste", (event) => {
    const pasted = [...(event.clipboardData?.files ?? [])].filter((file) => file.type.startsWith("image/"));
    if (pasted.length) { event.preventDefault(); add(pasted); }
  });
  return { element, add, set, get items() { return items; } };
}

/** A blob as a list item. Throws if it is not a picture. Sizes are those of the stored pixels. */
async function picture(blob, name) {
  const url = URL.createObjectURL(blob);
  const image = new Image();
  image.src = url;
  await image.decode();
  return { name: name || "image", blob, url, width: image.naturalWidth, height: image.naturalHeight };
}

/** The item as sent to the model: photos upright and without location and time, nothing larger than needed. */
async function prepared(item) {
  const camera = item.blob.type === "image/jpeg" && new TextDecoder("latin1").decode(await item.blob.slice(0, 65536).arrayBuffer()).includes("Exif\0");
  const scale = Math.min(1, LARGEST / Math.max(item.width, item.height));
  if (!camera && scale === 1) return item;
  const image = new Image();
  image.src = item.url;
  await image.decode();
  const canvas = h("canvas", { width: Math.round(item.width * scale), height: Math.round(item.height * scale) });
  canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
  const type = camera ? "image/jpeg" : item.blob.type === "image/png" ? "image/png" : "image/jpeg";
  return picture(await new Promise((done) => canvas.toBlob(done, type, 0.95)), item.name);
}

/** A blob as a data URL, and back. (The policy of the page only allows requests to its gateway, so fetch() refuses data URLs.) */
const dataUrl = (blob) => new Promise((done, failed) => {
  const reader = new FileReader();
  reader.onload = () => done(reader.result);
  reader.onerror = () => failed(reader.error);
  reader.readAsDataURL(blob);
});
function blobOf(url) {
  const [, type, content] = /^data:([^;,]+);base64,(.*)$/s.exec(url);
  return new Blob([Uint8Array.from(atob(content), (sign) => sign.charCodeAt(0))], { type });
}
