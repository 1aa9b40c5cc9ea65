// Puts the answer of the same address in place of what is shown; says so when there is none. All or nothing: what a proxy in
// front answers for a process that is away (or asks for a login with) must not take the page's place.
const seconds = 5, stale = document.getElementById("stale");
const parts = ["#stale + main", "link[rel=icon]"];
// Without name and password, which an address can carry and a fetch refuses.
const here = location.origin + location.pathname + location.search;
let seen = Date.now();
// Behind a proxy the page may be https://host/path, without a slash at the end: its links are below that path all the same.
const below = new URL(location.pathname.replace(/\/*$/, "/"), location.origin);
const mendLinks = () => {
  for (const link of document.querySelectorAll("footer a")) link.href = new URL(link.getAttribute("href"), below);
};
mendLinks();
// What a person has opened and scrolled stays so, and the keyboard is where it was.
const replace = (shown, fresh) => {
  for (const part of shown.querySelectorAll("details[open]")) fresh.querySelector(`[id="${part.id}"]`)?.setAttribute("open", "");
  const scrolled = [...shown.querySelectorAll(".wide")].map((part) => [part.id, part.scrollLeft]);
  const focused = shown.contains(document.activeElement) && document.activeElement.id;
  shown.replaceWith(fresh);
  for (const [id, left] of scrolled) document.getElementById(id)?.scrollTo(left, 0);
  if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
};
const reload = async () => {
  try {
    const answer = await fetch(here, { cache: "no-store", signal: AbortSignal.timeout(seconds * 900) });
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    const next = new DOMParser().parseFromString(await answer.text(), "text/html");
    const pairs = parts.map((part) => [document.querySelector(part), next.querySelector(part)]);
    if (pairs.some(([, fresh]) => !fresh)) throw new Error("another page came");
    for (const [shown, fresh] of pairs) replace(shown, fresh);
    mendLinks();
    document.title = next.title;
    seen = Date.now();
    stale.hidden = true;
  } catch (error) {
    const silent = Math.round((Date.now() - seen) / 1000);
    stale.textContent = `No answer for ${silent} s (${error.message}): the process is down, or this browser can't reach it. What stands below is old.`;
    document.title = "no answer · convgroup-deleter";
    stale.hidden = false;
  }
};
// Who reads slowly, or listens, can hold the page still.
if (location.search !== "?still") setInterval(reload, seconds * 1000);
