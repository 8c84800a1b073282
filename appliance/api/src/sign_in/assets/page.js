"use strict";
// Signing in for an app. Nothing is kept, and nobody goes anywhere without pressing something.

(() => {
  const by = (id) => document.getElementById(id);
  const query = location.search.slice(1);
  const devices = {
    managed: "This device belongs to the hospital.",
    unmanaged: "The hospital does not look after this device: photos may be shown less, or not at all.",
    "browser-kiosk": "This is a shared device: sign out when you leave.",
  };
  let declined = null;

  const say = (text) => {
    by("said").textContent = text;
  };

  async function ask(path, body, type) {
    const headers = { "x-wardstone-page": "1", "content-type": type };
    const options = { method: "POST", headers, body, cache: "no-store", redirect: "error" };
    let answer;
    try {
      answer = await fetch(path, options);
    } catch {
      return { error: "The server cannot be reached. Try again." };
    }
    const said = await answer.json().catch(() => ({}));
    return answer.ok || said.error ? said : { error: "That did not work. Try again." };
  }

  // Some systems let a page open an app only when a link is pressed: there is one, too.
  function leave(back, text) {
    by("sign-in").hidden = true;
    by("back").href = back;
    by("leave").hidden = false;
    say(text);
    by("back").focus();
  }

  function link(id, href) {
    by(id).hidden = !href;
    if (href) by(id).href = href;
  }

  async function begin() {
    const asked = await ask("/authorize/app", query, "application/x-www-form-urlencoded");
    if (asked.error) {
      if (asked.back) leave(asked.back, asked.error);
      else say(asked.error);
      return;
    }
    const host = new URL(asked.app.uri).host;
    declined = asked.back;
    by("app").textContent = asked.app.name || host;
    by("app-host").textContent = host;
    by("server").textContent = asked.server_name;
    by("device").textContent = devices[asked.device] || "";
    link("tos", asked.app.tos_uri);
    link("policy", asked.app.policy_uri);
    by("user").value = asked.login_hint || "";
    by("sign-in").hidden = false;
    by(asked.login_hint ? "password" : "user").focus();
  }

  async function signIn() {
    by("submit").disabled = true;
    say("");
    const body = JSON.stringify({ query, user: by("user").value, password: by("password").value });
    by("password").value = "";
    const answer = await ask("/authorize/sign_in", body, "application/json");
    by("submit").disabled = false;
    if (answer.error) {
      say(answer.error);
      by("password").focus();
      return;
    }
    leave(answer.back, "You are signed in. Go back to the app.");
    location.assign(answer.back);
  }

  document.addEventListener("DOMContentLoaded", () => {
    by("form").addEventListener("submit", (event) => {
      event.preventDefault();
      signIn();
    });
    by("cancel").addEventListener("click", () => location.assign(declined));
    begin();
  });
})();
