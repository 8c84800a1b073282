// A clinician at a shared machine: Chromium on the photo page, driven through its debugging pipe.
//
//   node photo_page.mjs '{"url", "user", "password", "room", "profile", "screenshots"}'
//
// Prints one JSON object with what was seen. The camera is Chromium's own test picture.
import { once } from "node:events";
import { createServer } from "node:http";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { filesUnder, holders, openBrowser } from "./chromium.mjs";

const given = JSON.parse(process.argv[2]);
const { call, evaluate, until, quit, kill } = await openBrowser(given.profile);

const visible = (id) => `!!document.getElementById(${JSON.stringify(id)})?.checkVisibility()`;
const press = (id) => evaluate(`document.getElementById(${JSON.stringify(id)}).click()`);

// What a keyboard does: Tab and Enter, and letters.
async function type(text) {
  await call("Input.insertText", { text });
}
async function key(name, code) {
  for (const kind of ["rawKeyDown", "char", "keyUp"]) {
    const text = name === "Enter" && kind === "char" ? "\r" : undefined;
    if (kind === "char" && !text) continue;
    const at = name === " " ? "Space" : name;
    await call("Input.dispatchKeyEvent", { type: kind, key: name, code: at, windowsVirtualKeyCode: code, text });
  }
}
const enter = () => key("Enter", 13);
// Tab, until the focus is there: nobody tabs more often than this.
async function tabTo(id) {
  for (let tabs = 0; tabs < 6; tabs += 1) {
    await key("Tab", 9);
    if (await evaluate(`document.activeElement.id === ${JSON.stringify(id)}`)) return;
  }
  throw new Error(`no Tab leads to ${id}`);
}

// What a screen reader would say nothing about, and what a phone would have to scroll sideways for.
async function judge(place) {
  const spoken = ["button", "textbox", "checkbox", "image", "img", "Canvas", "Video", "link"];
  const { nodes } = await call("Accessibility.getFullAXTree");
  const mute = nodes.filter((node) => !node.ignored && spoken.includes(node.role?.value) && !node.name?.value);
  seen.mute.push(...mute.map((node) => `${place}: ${node.role.value}`));
  seen.spoken += nodes.filter((node) => spoken.includes(node.role?.value)).length;
  const page = "document.documentElement";
  if (await evaluate(`${page}.scrollWidth > ${page}.clientWidth`)) seen.wide.push(place);
}

async function screenshot(name) {
  const { data } = await call("Page.captureScreenshot", { format: "png" });
  writeFileSync(join(given.screenshots, `${name}.png`), Buffer.from(data, "base64"));
}

// What the page was given, kept aside once: the debugger does not hold the bodies of blobs.
const watchBlobs = `{
  const make = URL.createObjectURL;
  URL.createObjectURL = (blob) => {
    window.lastBlob = blob;
    return make.call(URL, blob);
  };
}`;
const lastBlob = `lastBlob.arrayBuffer().then((buffer) => {
  delete window.lastBlob;
  return btoa(Array.from(new Uint8Array(buffer), (byte) => String.fromCharCode(byte)).join(""));
})`;

const seen = { mute: [], spoken: 0, wide: [] };
try {
  const phone = { width: 360, height: 640, deviceScaleFactor: 2, mobile: false };
  await call("Emulation.setDeviceMetricsOverride", phone);
  await call("Emulation.setFocusEmulationEnabled", { enabled: true });
  await call("Page.navigate", { url: given.url });

  // By keyboard alone: the name has the focus when the page is there.
  await until("the sign-in form", `${visible("sign-in")} && document.activeElement.id === "user"`);
  await screenshot("1-sign-in");
  await judge("sign-in");
  await type(given.user);
  await tabTo("password");
  await type(given.password);
  await enter();
  await until("the list of rooms", visible("rooms"));
  seen.cookieInScripts = await evaluate("document.cookie");
  await evaluate(
    `[...document.querySelectorAll("#room-list button")]
       .find((button) => button.textContent === ${JSON.stringify(given.room)}).click()`,
  );
  await until("the room", visible("room"));

  // A photo is taken, told of and sent without a pointer.
  await judge("room");
  await tabTo("to-camera");
  await enter();
  await until("the camera", `document.getElementById("live").videoWidth > 0`);
  await screenshot("2-camera");
  await judge("camera");
  await until("the button", `document.activeElement.id === "shoot"`);
  await enter();
  await until("the still picture", visible("still"));
  await judge("still");
  seen.sendsWithoutConsent = await evaluate(
    `document.getElementById("send-form").checkValidity()`,
  );
  await tabTo("reference");
  await type("MRN-7");
  await tabTo("consent");
  await key(" ", 32);
  await tabTo("send");
  await enter();
  await until("the photo in the room", `${visible("room")} && document.querySelector("#photo-list li")`);
  seen.said = await evaluate(`document.getElementById("said").textContent`);
  seen.entry = await evaluate(`document.querySelector("#photo-list li").textContent`);

  await tabTo("to-camera");
  await key("Tab", 9);
  await enter();
  await until("the page of the photo", `${visible("photo")} && document.activeElement.id === "look"`);
  seen.shownBeforeLook = await evaluate(visible("frame"));
  await evaluate(watchBlobs);
  await enter();
  await until("the photo", `document.getElementById("picture").naturalWidth > 0`);
  await judge("photo");
  await screenshot("3-photo");
  seen.size = await evaluate(
    `[document.getElementById("picture").naturalWidth, document.getElementById("picture").naturalHeight]`,
  );
  const photo = Buffer.from(await evaluate(lastBlob), "base64");
  seen.photoBytes = photo.length;
  await evaluate(`window.dispatchEvent(new Event("blur"))`);
  await call("Emulation.setFocusEmulationEnabled", { enabled: false });
  await evaluate(`Object.defineProperty(document, "hidden", { value: true, configurable: true });
    document.dispatchEvent(new Event("visibilitychange"))`);
  seen.coveredWhenHidden = await evaluate(
    `document.getElementById("picture").classList.contains("covered")`,
  );
  await screenshot("4-covered");
  await key("Escape", 27);
  await until("the photo to close", visible("room"));
  seen.sourceAfterClose = await evaluate(`document.getElementById("picture").getAttribute("src")`);
  await press("sign-out");
  await until("signing out", visible("sign-in"));
  seen.stored = await evaluate(`localStorage.length + sessionStorage.length`);

  // The control: the same photo from a page that lets browsers keep it.
  const careless = createServer((request, answer) => {
    const isPage = request.url === "/";
    const type = isPage ? "text/html" : "image/jpeg";
    answer.writeHead(200, { "content-type": type, "cache-control": "max-age=3600" });
    answer.end(isPage ? "<img src=/kept.jpg>" : Buffer.concat([photo, Buffer.from("control")]));
  });
  careless.listen(0, "127.0.0.1");
  await once(careless, "listening");
  const marker = photo.subarray(photo.length / 2, photo.length / 2 + 64);
  seen.holdersBefore = holders(given.profile, marker).length;
  await call("Page.navigate", { url: `http://127.0.0.1:${careless.address().port}/` });
  await until("the control", `document.images[0]?.naturalWidth > 0`);
  await quit();
  const files = filesUnder(given.profile);
  const own = Buffer.concat([photo.subarray(-64), Buffer.from("control")]);
  // What the careless page left is the control's; of the photo page there is nothing.
  seen.controlKept = files.filter((path) => readFileSync(path).includes(own)).length;
  seen.photoKept = files.filter((path) => {
    const bytes = readFileSync(path);
    return bytes.includes(marker) && !bytes.includes(own);
  }).length;
  console.log(JSON.stringify(seen));
} catch (error) {
  console.error(error.stack);
  process.exitCode = 1;
} finally {
  kill();
  // The control's server and the pipes would keep this process alive.
  process.exit();
}
