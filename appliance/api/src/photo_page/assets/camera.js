"use strict";
// From the camera to the room. The picture is in memory until it is sent, and nowhere else.

(() => {
  const { ask, attempt, by, currentRoom, openRoom, say, show } = page;
  const JPEG_QUALITY = 0.95;
  let stream = null;
  let facing = "environment";
  let taken = null;
  let rules = {};

  async function openCamera() {
    const path = `/rooms/${encodeURIComponent(currentRoom().room_id)}/camera`;
    rules = await (await ask("POST", path)).json();
    by("reference-need").textContent = rules.needs_reference ? "(required)" : "(if there is one)";
    by("reference").required = rules.needs_reference;
    by("consent-need").textContent = rules.needs_consent ? "(required)" : "";
    by("consent").required = rules.needs_consent;
    by("reference").value = "";
    by("consent").checked = false;
    show("camera", by("shoot"));
    await start();
  }

  async function start() {
    stop();
    forget();
    if (!navigator.mediaDevices) {
      say("This browser gives no camera to this page. It needs https.");
      return;
    }
    const video = { facingMode: facing, width: { ideal: 3840 }, height: { ideal: 2160 } };
    try {
      stream = await navigator.mediaDevices.getUserMedia({ video, audio: false });
    } catch {
      say("The camera cannot be used. Allow it for this page in the browser's settings.");
      return;
    }
    by("live").srcObject = stream;
  }

  function stop() {
    if (stream) for (const track of stream.getTracks()) track.stop();
    stream = null;
    by("live").srcObject = null;
  }

  // The still picture leaves memory.
  function forget() {
    taken = null;
    const canvas = by("still");
    canvas.width = canvas.height = 0;
    canvas.hidden = true;
    by("live").hidden = false;
    by("shoot").hidden = false;
    by("again").hidden = true;
    by("send").disabled = true;
  }

  function shoot() {
    const live = by("live");
    if (!live.videoWidth) {
      say("The camera is not ready yet.");
      return;
    }
    const canvas = by("still");
    canvas.width = live.videoWidth;
    canvas.height = live.videoHeight;
    canvas.getContext("2d").drawImage(live, 0, 0);
    // One name for this picture: sent twice, it arrives once.
    taken = crypto.randomUUID();
    stop();
    canvas.hidden = false;
    live.hidden = true;
    by("shoot").hidden = true;
    by("again").hidden = false;
    by("send").disabled = false;
    by("again").focus();
    say("");
  }

  async function send() {
    if (!taken) return;
    by("send").disabled = true;
    try {
      const encoded = (done) => by("still").toBlob(done, "image/jpeg", JPEG_QUALITY);
      const picture = await new Promise(encoded);
      const told = new URLSearchParams({ txn_id: taken, consent: by("consent").checked });
      if (by("reference").value.trim()) told.set("reference", by("reference").value.trim());
      const path = `/rooms/${encodeURIComponent(currentRoom().room_id)}/capture?${told}`;
      await ask("POST", path, picture, "image/jpeg");
    } catch (error) {
      by("send").disabled = false;
      throw error;
    }
    await leave();
    say("The photo is in the room.");
  }

  async function leave() {
    stop();
    forget();
    await openRoom(currentRoom());
  }

  document.addEventListener("DOMContentLoaded", () => {
    by("to-camera").addEventListener("click", () => attempt(openCamera));
    by("shoot").addEventListener("click", shoot);
    by("again").addEventListener("click", () => attempt(start));
    by("turn").addEventListener("click", () => {
      facing = facing === "environment" ? "user" : "environment";
      attempt(start);
    });
    by("send-form").addEventListener("submit", (event) => {
      event.preventDefault();
      attempt(send);
    });
    by("leave-camera").addEventListener("click", () => attempt(leave));
    window.addEventListener("pagehide", stop);
  });
})();
