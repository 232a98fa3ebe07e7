// Plays the frames it is handed at the environment's own pace, so that it is smooth although
// they arrive by the dozen.
const MOST_WAITING_S = 1.0;
const instances = new WeakMap();

function create(root) {
  return {
    root,
    batch: null,
    waiting: [],
    timer: null,
    image: root.querySelector("img"),
    actions: root.querySelector(".actions"),
    facts: root.querySelector(".facts"),
    rows: [],
    names: [],
  };
}

function makeRows(stage, names) {
  stage.names = names;
  stage.rows = names.map((name) => {
    const row = document.createElement("div");
    row.className = "action";
    const label = document.createElement("span");
    label.textContent = name;
    const track = document.createElement("span");
    track.className = "track";
    const bar = document.createElement("div");
    bar.className = "bar";
    track.append(bar);
    const share = document.createElement("span");
    share.className = "share";
    row.append(label, track, share);
    return { row, bar, share };
  });
  stage.actions.replaceChildren(...stage.rows.map(({ row }) => row));
}

function draw(stage, frame) {
  stage.image.src = `data:image/jpeg;base64,${frame.picture}`;
  stage.rows.forEach(({ row, bar, share }, i) => {
    const shown = frame.bars[i] ?? { share: 0, text: "", chosen: false };
    row.classList.toggle("chosen", shown.chosen);
    bar.style.width = `${100 * shown.share}%`;
    share.textContent = shown.text;
  });
  stage.facts.replaceChildren(
    ...[`Step ${frame.step}`, `Return ${frame.episode_return}`, `Version ${frame.version}`].map((text) => {
      const fact = document.createElement("span");
      fact.textContent = text;
      return fact;
    })
  );
}

function tick(stage, framesPerS) {
  clearTimeout(stage.timer);
  const frame = stage.waiting.shift();
  if (!frame || !stage.root.isConnected) {
    stage.timer = null;
    return;
  }
  draw(stage, frame);
  // When frames pile up (a slow tab), go faster rather than show the past.
  const late = stage.waiting.length > MOST_WAITING_S * framesPerS;
  stage.timer = setTimeout(() => tick(stage, framesPerS), late ? 5 : 1000 / framesPerS);
}

export default function (component) {
  const { data, parentElement } = component;
  if (!instances.has(parentElement)) instances.set(parentElement, create(parentElement));
  const stage = instances.get(parentElement);
  if (JSON.stringify(stage.names) !== JSON.stringify(data.names)) makeRows(stage, data.names);
  if (stage.batch === data.batch) return;
  stage.batch = data.batch;
  stage.waiting.push(...data.frames);
  if (stage.timer === null) tick(stage, data.frames_per_s);
}
