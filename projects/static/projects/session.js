// When the session has ended: a bar says so and offers to sign in beside; what is on the page stays. Once somebody
// is signed in again, the bar goes, and `signed-in` is heard on the document.

const bar = document.getElementById("signed-out");
const LOOK_MS = 5000;
let timer = null;

export const isSignedOut = () => Boolean(bar && !bar.hidden);

// For any response: true when it says that nobody is signed in.
export function noteStatus(status) {
  if (status !== 401) return false;
  if (bar?.hidden) {
    bar.hidden = false;
    timer = setInterval(look, LOOK_MS);
  }
  return true;
}

// A request as htmx makes them, so that the end of a session is an answer and not the sign-in page.
export async function ask(url, options = {}) {
  const response = await fetch(url, { ...options, headers: { "HX-Request": "true", ...options.headers } });
  noteStatus(response.status);
  return response;
}

async function look() {
  if (!isSignedOut() || document.hidden) return;
  try {
    const response = await ask(bar.dataset.look);
    if (!response.ok) return;
  } catch {
    return; // no network: later
  }
  clearInterval(timer);
  bar.hidden = true;
  document.dispatchEvent(new CustomEvent("signed-in"));
}

document.addEventListener("visibilitychange", look);
addEventListener("focus", look);
document.addEventListener("htmx:beforeSwap", (event) => noteStatus(event.detail.xhr.status));

// The token as it is now: signing in again changes it, and the one in the page is old.
export const csrfToken = () => document.cookie.match(/(?:^|; )csrftoken=([^;]+)/)?.[1] ?? "";
document.addEventListener("htmx:configRequest", (event) => {
  if (csrfToken()) event.detail.headers["X-CSRFToken"] = csrfToken();
});
