// Chromium without a screen, driven through its debugging pipe, with a profile of its own.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { readdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";

const TIMEOUT_MS = 30_000;

// A device that the hospital looks after has a certificate in its home's NSS database, and a policy that says
// where it is shown without asking. Chromium reads policies in one place only: there this process, and nobody
// else, sees another folder.
function command(device, words) {
  if (!device) return ["chromium", words, process.env];
  const script = 'mount --bind "$0" /etc/chromium && exec chromium "$@"';
  const own = process.getuid() === 0 ? "-m" : "-rm";
  return ["unshare", [own, "sh", "-c", script, device.policies, ...words], { ...process.env, HOME: device.home }];
}

// The camera is Chromium's own test picture. `device`: a home and a folder of policies, both of its own.
export async function openBrowser(profile, device) {
  const [program, words, env] = command(device, [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--remote-debugging-pipe",
    "--ignore-certificate-errors",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
    "--window-size=390,844",
      `--user-data-dir=${profile}`,
    "about:blank",
  ]);
  const chromium = spawn(program, words, { env, stdio: ["ignore", "ignore", "ignore", "pipe", "pipe"] });
  const [toChromium, fromChromium] = [chromium.stdio[3], chromium.stdio[4]];

  let rest = "";
  let last = 0;
  const waiting = new Map();
  fromChromium.on("data", (data) => {
    rest += data.toString();
    for (;;) {
      const end = rest.indexOf("\0");
      if (end < 0) return;
      const message = JSON.parse(rest.slice(0, end));
      rest = rest.slice(end + 1);
      if (message.id) {
        const { done, failed } = waiting.get(message.id);
        waiting.delete(message.id);
        if (message.error) failed(new Error(message.error.message));
        else done(message.result);
      }
    }
  });

  let session;
  function call(method, params = {}) {
    last += 1;
    const id = last;
    toChromium.write(`${JSON.stringify({ id, method, params, sessionId: session })}\0`);
    return new Promise((done, failed) => waiting.set(id, { done, failed }));
  }

  async function evaluate(expression) {
    const parameters = { expression, awaitPromise: true, returnByValue: true };
    const { result, exceptionDetails } = await call("Runtime.evaluate", parameters);
    if (exceptionDetails) throw new Error(exceptionDetails.exception?.description ?? expression);
    return result.value;
  }

  async function until(what, expression) {
    const end = Date.now() + TIMEOUT_MS;
    while (Date.now() < end) {
      if (await evaluate(expression)) return;
      await new Promise((done) => setTimeout(done, 50));
    }
    const said = await evaluate("document.body.innerText");
    throw new Error(`${what} did not happen. The page says:\n${said}`);
  }

  // As a person quits: what is in memory is written to the profile, or forgotten.
  async function quit() {
    session = undefined;
    await call("Browser.close").catch(() => {});
    await once(chromium, "exit");
  }

  const { targetInfos } = await call("Target.getTargets");
  const target = targetInfos.find((info) => info.type === "page").targetId;
  session = (await call("Target.attachToTarget", { targetId: target, flatten: true })).sessionId;
  await call("Page.enable");
  return { call, evaluate, until, quit, kill: () => chromium.kill("SIGKILL") };
}

// Everything that a browser has written down.
export function filesUnder(folder) {
  return readdirSync(folder, { withFileTypes: true }).flatMap((entry) => {
    const path = join(folder, entry.name);
    if (entry.isDirectory()) return filesUnder(path);
    return entry.isFile() && statSync(path).size > 0 ? [path] : [];
  });
}

export const holders = (folder, bytes) => filesUnder(folder).filter((path) => readFileSync(path).includes(bytes));
