// A UUIDv7, as the server makes them. crypto.randomUUID() is not there where the page did not come over HTTPS.

export function uuid7() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  for (let place = 5, rest = Date.now(); place >= 0; place--, rest = Math.floor(rest / 256)) bytes[place] = rest % 256;
  bytes[6] = 0x70 | (bytes[6] & 0x0f);
  bytes[8] = 0x80 | (bytes[8] & 0x3f);
  const hex = [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-");
}
