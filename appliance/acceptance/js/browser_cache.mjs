// A web client at a shared machine, reduced to what matters here: a page whose service worker fetches files
// with an access token, as those of Element Web and Cinny do. What does the browser's profile hold afterwards?
//
//   node browser_cache.mjs '{"homeserver", "token", "governed": "server/id", "profile"}'
//
// Prints one JSON object: in how many files of the profile the governed photo was found, and in how many
// that of a control, a server that sends what Synapse does.
import { once } from "node:events";
import { createServer } from "node:http";
import { holders, openBrowser } from "./chromium.mjs";

const given = JSON.parse(process.argv[2]);

// The middle of a picture: compressed pixels, which nothing else holds.
const middle = (bytes) => bytes.subarray(bytes.length / 2, bytes.length / 2 + 48);

const path = `/_matrix/client/v1/media/download/${given.governed}`;
const photo = Buffer.from(
  await (await fetch(given.homeserver + path, { headers: { authorization: `Bearer ${given.token}` } })).arrayBuffer(),
);
// The same picture a little changed: one is not taken for the other.
const control = Buffer.from(photo);
for (let at = 0; at < 48; at += 1) control[Math.floor(photo.length / 2) + at] ^= 0x55;

const WORKER = `
  self.addEventListener("install", () => self.skipWaiting());
  self.addEventListener("activate", (event) => event.waitUntil(clients.claim()));
  self.addEventListener("fetch", (event) => {
    const url = new URL(event.request.url);
    if (!url.pathname.startsWith("/_matrix/client/v1/media/")) return;
    const headers = { authorization: "Bearer ${given.token}" };
    event.respondWith(fetch(url, { headers, mode: "cors", credentials: "omit" }));
  });`;
const PAGE = `<!doctype html><title>A client</title><body><script>
  navigator.serviceWorker.register("/worker.js");
  navigator.serviceWorker.ready.then(() => (window.isReady = true));
</script>`;

const server = createServer((request, answer) => {
  const cors = { "access-control-allow-origin": "*", "access-control-allow-headers": "authorization" };
  if (request.url === "/worker.js") {
    answer.writeHead(200, { "content-type": "text/javascript" });
    answer.end(WORKER);
  } else if (request.url.startsWith("/_matrix/") && request.method === "OPTIONS") {
    answer.writeHead(200, cors);
    answer.end();
  } else if (request.url.startsWith("/_matrix/")) {
    // synapse/media/_base.py
    answer.writeHead(200, { ...cors, "content-type": "image/png", "cache-control": "public,max-age=86400,s-maxage=86400" });
    answer.end(control);
  } else {
    answer.writeHead(200, { "content-type": "text/html" });
    answer.end(PAGE);
  }
});
server.listen(0, "127.0.0.1");
await once(server, "listening");
const origin = `http://127.0.0.1:${server.address().port}`;

const browser = await openBrowser(given.profile);
try {
  await browser.call("Page.navigate", { url: `${origin}/` });
  await browser.until("the service worker", "window.isReady && !!navigator.serviceWorker.controller");
  const show = (url) => browser.evaluate(`new Promise((done, failed) => {
    const image = document.body.appendChild(new Image());
    image.onload = () => done(image.naturalWidth);
    image.onerror = () => failed(new Error("no picture"));
    image.src = ${JSON.stringify(url)};
  })`);
  const seen = { width: await show(given.homeserver + path) };
  // Pixels that are wrong make no picture: the control is fetched, not shown.
  await browser.evaluate(`fetch("${origin}/_matrix/client/v1/media/download/x/control").then((a) => a.arrayBuffer()).then((b) => b.byteLength)`);
  await browser.quit();
  seen.governed = holders(given.profile, middle(photo)).length;
  seen.control = holders(given.profile, middle(control)).length;
  console.log(JSON.stringify(seen));
} catch (error) {
  console.error(error.stack);
  process.exitCode = 1;
} finally {
  browser.kill();
  process.exit();
}
