// Somebody whose app has opened a browser: Chromium on the sign-in page, on a screen of a phone's size, by
// keyboard alone.
//
//   node sign_in.mjs '{"url", "user", "password", "port", "profile", "device", "screenshot"}'
//
// `device` is null, or has a `home` with a certificate and a folder of `policies`. Prints one JSON object: what was
// seen, and `back`, the address that the app at `port` was called with.
import { once } from "node:events";
import { createServer } from "node:http";
import { writeFileSync } from "node:fs";
import { openBrowser } from "./chromium.mjs";

const given = JSON.parse(process.argv[2]);
const { call, evaluate, until, quit, kill } = await openBrowser(given.profile, given.device);

async function key(name, code) {
  for (const kind of ["rawKeyDown", "char", "keyUp"]) {
    const text = name === "Enter" && kind === "char" ? "\r" : undefined;
    if (kind === "char" && !text) continue;
    await call("Input.dispatchKeyEvent", { type: kind, key: name, code: name, windowsVirtualKeyCode: code, text });
  }
}
const type = (text) => call("Input.insertText", { text });
const text = (id) => evaluate(`document.getElementById(${JSON.stringify(id)}).textContent`);
const focused = (id) => `document.activeElement.id === ${JSON.stringify(id)}`;

const seen = {};
try {
  // The app waits on this very machine.
  const app = createServer((request, answer) => {
    if (new URL(request.url, "http://127.0.0.1").pathname === "/back") seen.back ??= request.url;
    answer.end("You are signed in.");
  });
  app.listen(given.port, "127.0.0.1");
  await once(app, "listening");
  const phone = { width: 360, height: 640, deviceScaleFactor: 2, mobile: false };
  await call("Emulation.setDeviceMetricsOverride", phone);
  await call("Emulation.setFocusEmulationEnabled", { enabled: true });
  await call("Page.navigate", { url: given.url });
  await until("the form", `document.readyState === "complete" && ${focused("user")}`);
  const { data } = await call("Page.captureScreenshot", { format: "png" });
  writeFileSync(given.screenshot, Buffer.from(data, "base64"));
  seen.app = await text("app");
  seen.host = await text("app-host");
  seen.device = await text("device");
  const spoken = ["button", "textbox", "link"];
  const { nodes } = await call("Accessibility.getFullAXTree");
  const shown = nodes.filter((node) => !node.ignored && spoken.includes(node.role?.value));
  seen.spoken = shown.length;
  seen.mute = shown.filter((node) => !node.name?.value).map((node) => node.role.value);
  seen.isWide = await evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth");
  seen.backBefore = seen.back ?? null;

  // A slip first.
  await type(given.user);
  await key("Tab", 9);
  await type("not the password");
  await key("Enter", 13);
  await until("the refusal", `document.getElementById("said").textContent !== "" && ${focused("password")}`);
  seen.said = await text("said");
  await type(given.password);
  await key("Enter", 13);
  await until("the app", `location.port === ${JSON.stringify(String(given.port))}`);
  await quit();
  console.log(JSON.stringify(seen));
} catch (error) {
  console.error(error.stack);
  process.exitCode = 1;
} finally {
  kill();
  process.exit();
}
