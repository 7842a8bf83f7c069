// Pictures come in by drop (of files or folders), paste, the file dialog, or the camera.

const BURST_PAUSE = 150; // milliseconds between pictures of a burst
const BURST_END = 400; // after the last of them

export function takePictures(give) {
  // where a picture was dropped is given along, as Teach takes it for the class there
  const onPictures = (pictures, target) => pictures.length && give(pictures, target);
  const element = (id) => document.getElementById(id);
  const intake = element("intake");
  const files = element("files");

  element("choose").addEventListener("click", () => files.click());
  files.addEventListener("change", () => {
    onPictures(named([...files.files]));
    files.value = "";
  });

  let depth = 0; // of nested elements that the pointer entered
  const mark = (change) => {
    depth = Math.max(0, depth + change);
    intake.classList.toggle("over", depth > 0);
  };
  const hasFiles = (event) => event.dataTransfer?.types.includes("Files"); // else it is text, for a text field
  window.addEventListener("dragenter", (event) => hasFiles(event) && mark(1));
  window.addEventListener("dragleave", (event) => hasFiles(event) && mark(-1));
  window.addEventListener("dragover", (event) => hasFiles(event) && event.preventDefault());
  window.addEventListener("drop", async (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    mark(-depth);
    const target = event.target;
    onPictures(await dropped(event.dataTransfer), target);
  });

  window.addEventListener("paste", (event) => {
    const isText = event.target.matches?.("input, textarea") && event.clipboardData?.types.includes("text/plain");
    if (!isText) onPictures(named([...(event.clipboardData?.files ?? [])])); // text may come with a picture of it
  });

  setUpCamera(element, onPictures);
}

export function named(files) {
  return files.map((file) => ({ name: file.webkitRelativePath || file.name, blob: file }));
}

async function dropped(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.some((entry) => entry.isDirectory)) return named([...transfer.files]);
  const found = [];
  for (const entry of entries) await walk(entry, found);
  return found.sort((a, b) => (a.name < b.name ? -1 : 1));
}

async function walk(entry, found) {
  if (entry.name.startsWith(".")) return;
  if (entry.isFile) {
    const file = await new Promise((done) => entry.file(done, () => done(new Blob()))); // the server says that it has none
    found.push({ name: entry.fullPath.replace(/^\//, ""), blob: file });
    return;
  }
  const reader = entry.createReader();
  for (;;) {
    const some = await new Promise((done) => reader.readEntries(done, () => done([])));
    if (!some.length) return;
    for (const inner of some) await walk(inner, found);
  }
}

function setUpCamera(element, onPictures) {
  const dialog = element("camera");
  const video = element("video");
  const error = element("camera-error");
  let stream = null;
  let opening = 0; // the number of the latest; it ends when the dialog is closed
  let count = 0;

  const stop = (opened) => {
    for (const track of opened?.getTracks() ?? []) track.stop();
  };
  element("open-camera").addEventListener("click", async () => {
    opening += 1;
    const own = opening;
    error.hidden = true;
    element("shoot").disabled = true; // until there is a picture
    dialog.showModal();
    try {
      const opened = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
      if (own !== opening) {
        stop(opened);
        return;
      }
      video.srcObject = stream = opened;
      await video.play();
      if (own === opening) element("shoot").disabled = false;
    } catch {
      if (own !== opening) return;
      error.textContent = "There is no camera, or this page may not use it.";
      error.hidden = false;
    }
  });
  // Held down, the button takes one picture after the other; a held Enter key repeats the click.
  let taken = []; // not handed on yet, so that a burst is one addition
  let holding = 0;
  let handing = 0;
  const shoot = () => {
    const canvas = document.createElement("canvas");
    canvas.width = video.videoWidth;
    canvas.height = video.videoHeight;
    canvas.getContext("2d").drawImage(video, 0, 0);
    count += 1;
    const name = `camera-${count}.png`;
    taken.push(new Promise((done) => canvas.toBlob((blob) => done({ name, blob }), "image/png")));
    element("camera-count").textContent = taken.length === 1 ? "1 picture" : `${taken.length} pictures`;
    clearTimeout(handing);
    handing = setTimeout(handOn, BURST_END);
  };
  const handOn = async () => {
    clearTimeout(handing);
    const pictures = taken;
    taken = [];
    if (pictures.length) onPictures((await Promise.all(pictures)).filter(({ blob }) => blob));
  };
  let last = 0;
  element("shoot").addEventListener("click", () => {
    if (performance.now() - last < BURST_PAUSE) return; // of a held key, or the end of a burst
    last = performance.now();
    shoot();
  });
  const release = () => clearInterval(holding);
  element("shoot").addEventListener("pointerdown", () => {
    release();
    holding = setInterval(() => element("shoot").click(), BURST_PAUSE + 50);
  });
  for (const end of ["pointerup", "pointerleave", "pointercancel"]) element("shoot").addEventListener(end, release);
  element("close-camera").addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", () => {
    release();
    handOn();
    element("camera-count").textContent = "";
    opening += 1;
    stop(stream);
    stream = video.srcObject = null;
  });
}
