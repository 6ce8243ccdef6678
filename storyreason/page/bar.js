// The switches in the bar above a story, and the button for dark and light mode.

/** A toggle button; `press(on)` is called when it changes. `wordy` buttons are hidden on phones. */
function toggle(label, press, wordy = true) {
  const button = h(`button${wordy ? ".wordy" : ""}`, { type: "button", "aria-pressed": "false", onclick: () => {
    const on = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", String(on));
    press(on);
  } }, label);
  return button;
}

/** Switches between dark and light mode, overriding the system preference. */
function theme() {
  return h("button", { type: "button", "aria-label": "Dark or light", title: "Dark or light", onclick: () => {
    const scheme = getComputedStyle(document.documentElement).colorScheme;
    const dark = scheme === "dark" || (scheme !== "light" && matchMedia("(prefers-color-scheme: dark)").matches);
    document.documentElement.style.colorScheme = dark ? "light" : "dark";
  } }, "◐");
}

/** Toggles for boxes, tables and dark mode. Call `reset` when another story is shown: its tables are closed. */
function switches() {
  const open = (on) => document.querySelectorAll("details.analysis").forEach((fold) => { fold.open = on; });
  const tables = toggle("All tables", open, false);
  const boxes = toggle("Hide boxes", (on) => document.body.classList.toggle("no-boxes", on));
  return { tools: h("div.tools", {}, boxes, tables, theme()), reset: () => tables.setAttribute("aria-pressed", "false") };
}
