// Single-key shortcuts. They are silent while somebody types, in an open dialog, and with a modifier held.

const bindings = new Map();

export function bind(keys) {
  for (const [key, action] of Object.entries(keys)) bindings.set(key, action);
}

export function isTyping(target) {
  return target.isContentEditable || /^(TEXTAREA|SELECT)$/.test(target.tagName) ||
    (target.tagName === "INPUT" && !/^(checkbox|radio|button|submit)$/.test(target.type));
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing || event.repeat) return;
  if (isTyping(event.target) || document.querySelector("dialog[open]")) return;
  const action = bindings.get(event.key);
  if (action && action(event) !== false) event.preventDefault();
});
