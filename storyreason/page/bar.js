// The switches of the bar above a story, and the button for dark and light.

/** A button that is on or off; `press(on)` is called when it changes. Words that a phone has no room for are `wordy`. */
function toggle(label, press, wordy = true) {
  const button = h(`button${wordy ? ".wordy" : ""}`, { type: "button", "aria-pressed": "false", onclick: () => {
    const on = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", String(on));
    press(on);
  } }, label);
  return button;
}

/** Dark or light, over what the system prefers. */
function theme() {
  return h("button", { type: "button", "aria-label": "Dark or light", title: "Dark or light", onclick: () => {
    const scheme = getComputedStyle(document.documentElement).colorScheme;
    const dark = scheme === "dark" || (scheme !== "light" && matchMedia("(prefers-color-scheme: dark)").matches);
    document.documentElement.style.colorScheme = dark ? "light" : "dark";
  } }, "◐");
}

/** Boxes, tables, dark or light. `reset` is for another story, whose tables are closed. */
function switches() {
  const open = (on) => document.querySelectorAll("details.analysis").forEach((fold) => { fold.open = on; });
  const tables = toggle("All tables", open, false);
  const boxes = toggle("Hide boxes", (on) => document.body.classList.toggle("no-boxes", on));
  return { tools: h("div.tools", {}, boxes, tables, theme()), reset: () => tables.setAttribute("aria-pressed", "false") };
}
