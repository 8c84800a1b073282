"use strict";
// Signing in, finding a photo, looking at it. Nothing is kept: no storage, no history of photos; a
// picture lives in memory while it is on the screen.

const page = (() => {
  const by = (id) => document.getElementById(id);
  const sections = ["sign-in", "rooms", "room", "photo", "camera"];
  // The longest that a photo stays on a screen that nobody touches.
  const SHOWN_MS_MAX = 120_000;
  let room = null;
  let photo = null;
  let shown = null;

  class Refused extends Error {
    constructor(status, message) {
      super(message);
      this.status = status;
    }
  }

  async function ask(method, path, body, type) {
    const headers = { "x-wardstone-page": "1" };
    if (type) headers["content-type"] = type;
    let answer;
    try {
      answer = await fetch(path, { method, headers, body, cache: "no-store", redirect: "error" });
    } catch {
      throw new Refused(0, "The server cannot be reached. Try again.");
    }
    if (answer.ok) return answer;
    const refusal = await answer.json().catch(() => ({}));
    throw new Refused(answer.status, refusal.error || "That did not work. Try again.");
  }

  const say = (text) => {
    by("said").textContent = text;
  };

  function show(name, focus) {
    for (const section of sections) by(section).hidden = section !== name;
    say("");
    (focus || by(name).querySelector("h2")).focus();
  }

  // Runs what a button does; what is refused is said, and who is signed out signs in again.
  async function attempt(work) {
    try {
      await work();
    } catch (error) {
      if (error.status === 401) {
        signedOut();
        say("You are signed out. Sign in again.");
      } else {
        say(error.message);
      }
    }
  }

  function signedOut() {
    takeDown();
    by("who").textContent = "";
    by("sign-out").hidden = true;
    show("sign-in", by("user"));
  }

  function entries(list, none, items) {
    by(list).replaceChildren(
      ...items.map(([text, act]) => {
        const item = document.createElement("li");
        const button = document.createElement("button");
        button.type = "button";
        button.textContent = text;
        button.addEventListener("click", () => attempt(act));
        item.append(button);
        return item;
      }),
    );
    by(none).hidden = items.length > 0;
  }

  async function openRooms() {
    const { user_id: user, rooms } = await (await ask("POST", "/rooms")).json();
    by("who").textContent = user;
    by("sign-out").hidden = false;
    entries("room-list", "no-rooms", rooms.map((each) => [each.name, () => openRoom(each)]));
    show("rooms");
  }

  async function openRoom(chosen) {
    room = chosen;
    const path = `/rooms/${encodeURIComponent(room.room_id)}/photos`;
    const { photos } = await (await ask("POST", path)).json();
    by("room-title").textContent = room.name;
    by("to-camera").hidden = room.is_encrypted;
    const items = photos.map((each) => {
      const when = new Date(each.sent_ms).toLocaleString();
      const whose = each.reference ? `, patient ${each.reference}` : "";
      return [`${when}, ${each.sender}${whose}`, () => openPhoto(each)];
    });
    entries("photo-list", "no-photos", items);
    show("room");
  }

  function openPhoto(chosen) {
    photo = chosen;
    takeDown();
    show("photo", by("look"));
  }

  async function look() {
    const names = [photo.server_name, photo.media_id].map(encodeURIComponent).join("/");
    const answer = await ask("POST", `/look/${names}`);
    takeDown();
    const url = URL.createObjectURL(await answer.blob());
    by("picture").src = url;
    by("frame").hidden = false;
    by("look").hidden = true;
    by("photo-hint").hidden = true;
    shown = { url, timer: setTimeout(closePhoto, SHOWN_MS_MAX) };
    cover();
    by("close-photo").focus();
  }

  // Off the screen and out of memory.
  function takeDown() {
    if (shown) {
      clearTimeout(shown.timer);
      URL.revokeObjectURL(shown.url);
      shown = null;
      ask("POST", "/close").catch(() => {});
    }
    by("picture").removeAttribute("src");
    by("frame").hidden = true;
    by("covered").hidden = true;
    by("look").hidden = false;
    by("photo-hint").hidden = false;
  }

  function closePhoto() {
    takeDown();
    return attempt(() => (room ? openRoom(room) : openRooms()));
  }

  // Whoever turns to another window does not leave the photo in view.
  function cover() {
    const isCovered = document.hidden || !document.hasFocus();
    by("picture").classList.toggle("covered", isCovered);
    by("covered").hidden = !(shown && isCovered);
  }

  function begin() {
    by("sign-in-form").addEventListener("submit", (event) => {
      event.preventDefault();
      attempt(async () => {
        const body = JSON.stringify({ user: by("user").value, password: by("password").value });
        by("password").value = "";
        await ask("POST", "/session", body, "application/json");
        await enter();
      });
    });
    by("sign-out").addEventListener("click", () =>
      attempt(async () => {
        takeDown();
        await ask("DELETE", "/session");
        signedOut();
      }),
    );
    by("back-to-rooms").addEventListener("click", () => attempt(openRooms));
    by("look").addEventListener("click", () => attempt(look));
    by("close-photo").addEventListener("click", closePhoto);
    for (const event of ["blur", "focus"]) window.addEventListener(event, cover);
    document.addEventListener("visibilitychange", cover);
    document.addEventListener("contextmenu", (event) => event.preventDefault());
    window.addEventListener("pagehide", takeDown);
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && shown) closePhoto();
    });
    enter().catch(signedOut);
  }

  // To the photo of the address, else to the rooms.
  async function enter() {
    await openRooms();
    const [, kind, server, id] = location.pathname.split("/");
    if (kind === "photo" && server && id) {
      openPhoto({ server_name: decodeURIComponent(server), media_id: decodeURIComponent(id) });
    }
  }

  document.addEventListener("DOMContentLoaded", begin);
  return { ask, attempt, by, currentRoom: () => room, openRoom, say, show };
})();
