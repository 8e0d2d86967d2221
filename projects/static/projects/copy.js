// Puts text on the clipboard, also where the page did not come over HTTPS and the browser hides its own way.

export async function copyText(text) {
  if (navigator.clipboard) {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch { /* not allowed here: the old way below */ }
  }
  const active = document.activeElement;
  const field = document.createElement("textarea");
  field.value = text;
  field.readOnly = true;
  field.className = "visually-hidden";
  document.body.append(field);
  field.select();
  const isDone = document.execCommand("copy");
  field.remove();
  active?.focus({ preventScroll: true });
  return isDone;
}

// Copy buttons of code blocks, on every page.
document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy-code]");
  if (!button) return;
  const isDone = await copyText(button.closest(".code").querySelector("pre").textContent);
  if (!isDone) return;
  button.dataset.done = "yes";
  setTimeout(() => { delete button.dataset.done; }, 1500);
});
