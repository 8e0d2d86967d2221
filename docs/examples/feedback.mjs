// RATCHET_URL=http://127.0.0.1:8000 RATCHET_KEY=rk_... node feedback.mjs
// Runs in a browser as well, on a page of the same server; but a key in a page is everybody's key.
const { RATCHET_URL: url, RATCHET_KEY: key } = globalThis.process?.env ?? globalThis.ratchet;

async function api(method, path, body) {
  // Each judgement has an id of its own and every other POST this key, so trying again is safe.
  const headers = { Authorization: `Bearer ${key}`, "Content-Type": "application/json", "Idempotency-Key": crypto.randomUUID() };
  for (let attempt = 1; ; attempt++) {
    const response = await fetch(`${url}/api/v1${path}`, { method, headers, body: body && JSON.stringify(body) });
    const answer = await response.json();
    if (response.ok) return answer;
    if (![429, 503].includes(response.status) || attempt === 4) {
      throw Object.assign(new Error(answer.error.message), answer.error);
    }
    await new Promise((resolve) => setTimeout(resolve, 1000 * Number(response.headers.get("Retry-After") ?? 1)));
  }
}

// An answer that your own stack made, and a thumb from one of your users.
const answer = await api("POST", "/completions", {
  messages: [{ role: "user", content: "How long does an egg boil?" }],
  text: "Eight minutes, in JavaScript.",
  version_label: "mine-1",
});
const thumb = { kind: "rating", completion_id: answer.id, value: 1, subject: "user-20" };
const first = await api("POST", "/feedback", thumb);

// Twice by the same user on the same answer is refused by name, with the id of the first.
try {
  await api("POST", "/feedback", thumb);
} catch (error) {
  console.log(error.code, error.id === first.id);
}

// Many at once: a result for each.
const items = Array.from({ length: 20 }, (_, n) => ({ ...thumb, subject: `visitor-${n}` }));
const { results } = await api("POST", "/feedback/batch", { items });
console.log(results.filter((result) => result.status === 201).length, "thumbs recorded");

// Every page of a list.
let count = 0;
let page = { next: "" };
while (page.next !== null) {
  page = await api("GET", `/feedback?completion_id=${answer.id}&limit=10${page.next && `&cursor=${encodeURIComponent(page.next)}`}`);
  count += page.items.length;
}
console.log(count, "judgements of this answer");
