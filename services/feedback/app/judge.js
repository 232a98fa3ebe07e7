// Two clips in step, and the answer to which is better. One instance lives as long as the page;
// Streamlit calls the function again with each new pair or status.
const KEYS = { ArrowLeft: "left", ArrowRight: "right", ArrowDown: "tie", t: "tie", s: "skip", u: "undo" };
const PAUSE_AT_END_MS = 400;
const instances = new WeakMap();

function create(root) {
  const judge = {
    pairId: null,
    turn: null,
    busy: true,
    shownAt: null,
    speed: 1,
    timer: null,
    send: null,
    videos: [...root.querySelectorAll("video")],
    figures: [...root.querySelectorAll("figure")],
    buttons: [...root.querySelectorAll("[data-choice]")],
    undo: root.querySelector("[data-undo]"),
    speeds: [...root.querySelectorAll("[data-speed]")],
    status: root.querySelector(".status"),
  };
  for (const video of judge.videos) {
    video.addEventListener("canplay", () => startWhenReady(judge));
    // A shorter clip waits on its last frame, so that both begin again together.
    video.addEventListener("ended", () => {
      if (judge.videos.every((other) => other.ended)) {
        clearTimeout(judge.timer);
        judge.timer = setTimeout(() => playBoth(judge), PAUSE_AT_END_MS);
      }
    });
  }
  for (const button of judge.buttons) button.addEventListener("click", () => answer(judge, button.dataset.choice));
  judge.undo.addEventListener("click", () => takeBack(judge));
  for (const button of judge.speeds) button.addEventListener("click", () => setSpeed(judge, Number(button.dataset.speed)));
  setSpeed(judge, 1);
  return judge;
}

function startWhenReady(judge) {
  if (judge.shownAt !== null || judge.videos.some((video) => video.readyState < 3)) return;
  judge.shownAt = performance.now();
  playBoth(judge);
}

function playBoth(judge) {
  for (const video of judge.videos) video.currentTime = 0;
  for (const video of judge.videos) {
    video.playbackRate = judge.speed;
    video.play().catch(() => {}); // a tab in the background may refuse; it plays when seen
  }
}

function setSpeed(judge, speed) {
  judge.speed = speed;
  for (const video of judge.videos) video.playbackRate = speed;
  for (const button of judge.speeds) button.classList.toggle("chosen", Number(button.dataset.speed) === speed);
}

function setBusy(judge, busy) {
  judge.busy = busy;
  for (const button of [...judge.buttons, judge.undo]) button.disabled = busy;
}

function show(judge, kind, text) {
  judge.status.className = `status ${kind}`;
  judge.status.textContent = text;
}

function answer(judge, choice) {
  if (judge.busy || judge.pairId === null) return;
  setBusy(judge, true);
  judge.buttons.forEach((button) => button.classList.toggle("chosen", button.dataset.choice === choice));
  judge.figures.forEach((figure) => figure.classList.toggle("chosen", figure.dataset.side === choice));
  show(judge, "", "Saving …");
  const shownAt = judge.shownAt ?? performance.now();
  // Names the pair: an answer that arrives late can never be taken for the next one's.
  judge.send("judged", {
    pair_id: judge.pairId,
    choice,
    response_time_ms: Math.round(performance.now() - shownAt),
  });
}

function takeBack(judge) {
  if (judge.busy) return;
  setBusy(judge, true);
  show(judge, "", "Taking back …");
  judge.send("undone", { turn: judge.turn });
}

function onKey(judge, event) {
  const target = event.composedPath()[0];
  const typing = target instanceof HTMLElement && (target.isContentEditable || ["INPUT", "TEXTAREA", "SELECT"].includes(target.tagName));
  if (typing || event.repeat || event.ctrlKey || event.metaKey || event.altKey) return;
  const meaning = KEYS[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (!meaning) return;
  event.preventDefault();
  if (meaning === "undo") takeBack(judge);
  else answer(judge, meaning);
}

function load(judge, data) {
  clearTimeout(judge.timer);
  judge.pairId = data.pair_id;
  judge.shownAt = null;
  [data.left, data.right].forEach((clip, side) => {
    judge.videos[side].src = `data:video/mp4;base64,${clip}`;
  });
}

export default function (component) {
  const { data, parentElement, setTriggerValue } = component;
  if (!instances.has(parentElement)) instances.set(parentElement, create(parentElement));
  const judge = instances.get(parentElement);
  judge.send = setTriggerValue;
  if (judge.pairId !== data.pair_id) load(judge, data);
  if (judge.turn !== data.turn) {
    judge.turn = data.turn;
    for (const marked of [...judge.buttons, ...judge.figures]) marked.classList.remove("chosen");
    show(judge, data.status_kind, data.status_text);
    setBusy(judge, false);
  }
  const listener = (event) => onKey(judge, event);
  document.addEventListener("keydown", listener);
  return () => {
    document.removeEventListener("keydown", listener);
    // Streamlit cleans up between renders too; the clips go on unless the page is gone.
    setTimeout(() => {
      if (!parentElement.isConnected) judge.videos.forEach((video) => video.pause());
    });
  };
}
