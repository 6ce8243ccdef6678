// Saves a story: as a self-contained page, or as JSON that this page can load again.

/** A name for files: "story-2026-03-01-1412.html". */
function fileName(ending) {
  const now = new Date();
  const two = (n) => String(n).padStart(2, "0");
  return `story-${now.getFullYear()}-${two(now.getMonth() + 1)}-${two(now.getDate())}-${two(now.getHours())}${two(now.getMinutes())}.${ending}`;
}

function save(name, text, type) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  const link = h("a", { href: url, download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

/** JSON that cannot close its script element, like `inert` in storyreason/page/html.py. */
const inert = (value) => JSON.stringify(value).replace(/[<>&\u2028\u2029]/g, (sign) => `\\u${sign.charCodeAt(0).toString(16).padStart(4, "0")}`);

/** The self-contained page of a view: the empty page that Python rendered, with this view and its pictures as data URLs. */
async function pageOf(view, items) {
  const images = await Promise.all(view.images.map(async (image, i) => ({ ...image, src: items[i] ? await dataUrl(items[i].blob) : image.src })));
  const content = inert({ title: view.title, views: [{ ...view, images }] });
  const title = h("p", {}, view.title).innerHTML;
  return JSON.parse(document.getElementById("empty").textContent)
    .replace("<title></title>", () => `<title>${title}</title>`)
    .replace(/(<script type="application\/json" id="data">).*?(<\/script>)/s, (_, start, end) => start + content + end);
}
