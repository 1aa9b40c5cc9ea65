// Puts the answer of the same address in place of what is shown; says so when there is none.
const seconds = 5, stale = document.getElementById("stale");
let seen = Date.now();
setInterval(async () => {
  try {
    const answer = await fetch("", { cache: "no-store", signal: AbortSignal.timeout(seconds * 900) });
    const next = new DOMParser().parseFromString(await answer.text(), "text/html");
    document.querySelector("main").replaceWith(next.querySelector("main"));
    document.querySelector("link[rel=icon]").replaceWith(next.querySelector("link[rel=icon]"));
    document.title = next.title;
    seen = Date.now();
    stale.hidden = true;
  } catch {
    const silent = Math.round((Date.now() - seen) / 1000);
    stale.textContent = `No answer for ${silent} s: the process is down, or this browser can't reach it. What stands below is old.`;
    document.title = "no answer · convgroup-deleter";
    stale.hidden = false;
  }
}, seconds * 1000);
