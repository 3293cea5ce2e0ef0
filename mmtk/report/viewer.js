// The page's viewer: two images, one over the other, in three planes through one crosshair.
//
// Each image has a canvas of its own and the upper one fades, so that a blend costs the browser nothing. A third canvas
// over both carries the lines: outlines of lesions and the deformed grid. Without WebGL, and for 2-D images, the page's
// still pictures take the place of the volumes under the same controls.
(() => {
"use strict";
const $ = (id) => document.getElementById(id);
const section = $("viewer");
if (!section) return;
const scene = JSON.parse($("scene").textContent);
const layers = new Map(scene.layers.map((layer) => [layer.name, layer]));
const state = { lower: scene.lower, upper: scene.upper, share: 1, outlines: true, grid: false, timer: 0 };

async function unzip(id) {
  const packed = Uint8Array.from(atob($(id).textContent.trim()), (c) => c.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

const HEADER = 352; // bytes before the voxels of a NIfTI file

class Store {
  constructor(told, file) {
    Object.assign(this, told);
    this.file = file;
    this.voxels = told.name === "displacement" ? file : file.subarray(HEADER);
  }
  at(i, j, k) {
    const [nx, ny, nz] = this.shape;
    const clip = (x, n) => Math.max(0, Math.min(n - 1, x));
    return this.lowest + this.step * this.voxels[clip(i, nx) + nx * (clip(j, ny) + ny * clip(k, nz))];
  }
}

async function readStores() {
  const stores = new Map();
  for (const told of scene.stores) stores.set(told.name, new Store(told, await unzip("volume-" + told.name)));
  for (const store of stores.values()) {
    if (!store.onto) continue;
    const base = stores.get(store.onto).voxels;
    for (let n = 0; n < base.length; n++) store.voxels[n] += base[n];
  }
  return stores;
}

// --- lines over the slices ------------------------------------------------------------------------------------------

// Draw where a plane of numbers crosses a level. `at(a, b)` is the number at a node, `x` and `y` turn nodes into pixels.
function contour(pen, at, wide, high, level, x, y) {
  for (let b = 0; b + 1 < high; b++) {
    for (let a = 0; a + 1 < wide; a++) {
      const corners = [[a, b], [a + 1, b], [a + 1, b + 1], [a, b + 1]];
      const values = corners.map(([p, q]) => at(p, q) - level);
      const above = values.map((v) => v > 0);
      if (above[0] === above[1] && above[1] === above[2] && above[2] === above[3]) continue;
      let open = false;
      for (let e = 0; e < 4; e++) {
        const f = (e + 1) % 4;
        if (above[e] === above[f]) continue;
        const t = values[e] / (values[e] - values[f]);
        const p = corners[e][0] + t * (corners[f][0] - corners[e][0]);
        const q = corners[e][1] + t * (corners[f][1] - corners[e][1]);
        if (open) pen.lineTo(x(p), y(q)); else pen.moveTo(x(p), y(q));
        open = !open;
      }
    }
  }
}

// Array axes that run to the right and up in NiiVue's axial, coronal and sagittal slices, and the one across.
const PLANES = [[0, 1, 2], [0, 2, 1], [1, 2, 0]];

class Lines {
  constructor(canvas, viewer, stores) {
    Object.assign(this, { canvas, viewer, stores, pen: canvas.getContext("2d") });
  }
  draw() {
    const { canvas, pen, viewer } = this;
    canvas.width = viewer.canvas.width;
    canvas.height = viewer.canvas.height;
    this.dot = canvas.width / canvas.clientWidth;
    for (const slice of viewer.screenSlices) {
      if (slice.axCorSag > 2) continue;
      let [left, top, width, height] = slice.leftTopWidthHeight;
      const mirrored = width < 0;
      if (mirrored) { left += width; width = -width; }
      const [p, q, across] = PLANES[slice.axCorSag];
      const low = viewer.frac2mm([0, 0, 0]), high = viewer.frac2mm([1, 1, 1]);
      const place = (axis, share, n) => (low[axis] + (high[axis] - low[axis]) * share - slice.leftTopMM[n]) / slice.fovMM[n];
      const x = (share) => { const s = place(p, share, 0); return left + width * (mirrored ? 1 - s : s); };
      const y = (share) => top + height * (1 - place(q, share, 1));
      pen.save();
      pen.beginPath();
      pen.rect(left, top, width, height);
      pen.clip();
      const depth = viewer.scene.crosshairPos[across];
      if (state.grid) this.grid(p, q, across, depth, x, y);
      if (state.outlines) this.outlines(p, q, across, depth, x, y);
      pen.restore();
    }
  }
  outlines(p, q, across, depth, x, y) {
    const weight = new Map();
    const add = (layer, share) => {
      for (const line of layer.outlines) {
        const seen = weight.get(line.store) || { ...line, share: 0 };
        seen.share += share;
        weight.set(line.store, seen);
      }
    };
    add(layers.get(state.lower), 1 - state.share);
    add(layers.get(state.upper), state.share);
    for (const line of weight.values()) {
      const store = this.stores.get(line.store);
      if (!store || line.share < 0.02) continue;
      const index = [0, 0, 0];
      index[across] = Math.min(store.shape[across] - 1, Math.floor(depth * store.shape[across]));
      const at = (a, b) => { index[p] = a; index[q] = b; return store.at(...index); };
      const [wide, high] = [store.shape[p], store.shape[q]];
      this.stroke(line.color, 1.6, line.share, () =>
        contour(this.pen, at, wide, high, 0.5, (a) => x((a + 0.5) / wide), (b) => y((b + 0.5) / high)));
    }
  }
  grid(p, q, across, depth, x, y) {
    const field = this.stores.get("displacement"), fine = 2;
    if (!field) return;
    const count = field.voxels.length / 3;
    const [wide, high] = [field.shape[p] * fine, field.shape[q] * fine];
    for (const [axis, run] of [[p, 0], [q, 1]]) {
      // Where the point of this node comes from, in mm along the axis.
      const part = { ...field, voxels: field.voxels.subarray(axis * count, (axis + 1) * count), at: Store.prototype.at };
      const nodes = new Float32Array(wide * high);
      let least = Infinity, most = -Infinity;
      for (let b = 0; b < high; b++) {
        for (let a = 0; a < wide; a++) {
          const spot = [0, 0, 0];
          spot[p] = (a + 0.5) / fine - 0.5;
          spot[q] = (b + 0.5) / fine - 0.5;
          spot[across] = depth * field.shape[across] - 0.5;
          const mm = (run ? spot[q] : spot[p]) * scene.fieldSpacing[axis] + linear(part, spot);
          nodes[a + wide * b] = mm;
          least = Math.min(least, mm);
          most = Math.max(most, mm);
        }
      }
      this.stroke("#8fd3ff", 1, 0.8, () => {
        for (let level = Math.ceil(least / scene.gridStep) * scene.gridStep; level < most; level += scene.gridStep) {
          contour(this.pen, (a, b) => nodes[a + wide * b], wide, high, level,
            (a) => x((a + 0.5) / wide), (b) => y((b + 0.5) / high));
        }
      });
    }
  }
  stroke(color, width, alpha, path) {
    this.pen.beginPath();
    path();
    this.pen.globalAlpha = Math.min(1, alpha);
    this.pen.strokeStyle = color;
    this.pen.lineWidth = width * this.dot;
    this.pen.stroke();
  }
}

function linear(store, spot) {
  const whole = spot.map(Math.floor);
  let sum = 0;
  for (let corner = 0; corner < 8; corner++) {
    let weight = 1;
    const index = whole.map((n, axis) => {
      const one = (corner >> axis) & 1;
      weight *= one ? spot[axis] - n : 1 - spot[axis] + n;
      return n + one;
    });
    if (weight) sum += weight * store.at(...index);
  }
  return sum;
}

// --- the two ways to show an image --------------------------------------------------------------------------------

async function volumeStage() {
  const probe = document.createElement("canvas").getContext("webgl2");
  if (!probe || !("DecompressionStream" in window)) throw new Error("no WebGL 2");
  probe.getExtension("WEBGL_lose_context")?.loseContext();
  const library = document.createElement("script");
  library.textContent = new TextDecoder().decode(await unzip("niivue"));
  document.head.append(library);
  const { Niivue, NVImage } = window.niivue;
  const stores = await readStores();
  const stage = $("stage");
  const viewers = {};
  for (const side of ["lower", "upper"]) {
    const canvas = document.createElement("canvas");
    canvas.tabIndex = side === "upper" ? 0 : -1;
    canvas.setAttribute("aria-label", side === "upper" ? "three planes of the images, moved by mouse or H J K L U D" : "");
    stage.append(canvas);
    canvas.addEventListener("webglcontextlost", () => fallBack("the graphics card gave up"));
    const viewer = new Niivue({
      logLevel: "error", loadingText: "", backColor: [0, 0, 0, 1], crosshairColor: [0.35, 0.85, 0.5, 0.6],
      crosshairWidth: 0.4, crosshairWidthUnit: "percent", fontColor: [0.72, 0.76, 0.82, 1], fontMinPx: 11, fontSizeScaling: 0.3,
      multiplanarLayout: 3, multiplanarShowRender: 0, multiplanarPadPixels: 4, tileMargin: 0, sliceType: 3,
      isRadiologicalConvention: true, sagittalNoseLeft: true, isOrientationTextVisible: scene.located,
      showAllOrientationMarkers: scene.located, dragAndDropEnabled: false, dragMode: 3, clipPlaneHotKey: "", cycleClipPlaneHotKey: "",
      viewModeHotKey: "", scrollRequiresFocus: true,
    });
    await viewer.attachToCanvas(canvas, false);
    viewers[side] = viewer;
  }
  const pen = document.createElement("canvas");
  pen.className = "lines";
  stage.append(pen);
  const lines = new Lines(pen, viewers.upper, stores);
  for (const [name, colors] of Object.entries(scene.colors)) viewers.upper.addColormap("mmtk_" + name, table(colors));

  const image = (name, [low, high], colors, opacity) => {
    const { file } = stores.get(name);
    return NVImage.new(file.buffer.slice(0), name + ".nii", colors, opacity, null, low, high);
  };
  async function show(side, layer) {
    const viewer = viewers[side];
    const made = [await image(layer.scan, layer.window, "mmtk_gray", 1)];
    if (layer.map) made.push(await image(layer.map, layer.scale, "mmtk_" + layer.colors, layer.opacity));
    const { crosshairPos } = viewer.scene;
    const place = viewer.volumes.length ? [...crosshairPos] : scene.center;
    while (viewer.volumes.length) viewer.removeVolumeByIndex(0);
    for (const volume of made) viewer.addVolume(volume);
    viewer.scene.crosshairPos = place;
    viewer.drawScene();
  }
  function readout() {
    const share = viewers.upper.scene.crosshairPos;
    const words = [];
    const scan = stores.get("deformed");
    const voxel = [...share].map((s, axis) => s * scan.shape[axis] - 0.5);
    const mm = scene.affine.slice(0, 3).map((row) => row[3] + row[0] * voxel[0] + row[1] * voxel[1] + row[2] * voxel[2]);
    if (scene.located) words.push(["RAS, mm", mm.map((x) => x.toFixed(0).replace("-", "−")).join(" ")]);
    for (const { store: name, title } of scene.values) {
      const store = stores.get(name);
      const index = [...share].map((s, axis) => Math.min(store.shape[axis] - 1, Math.floor(s * store.shape[axis])));
      words.push([title, Number(store.at(...index).toPrecision(3)).toString().replace("-", "−")]);
    }
    $("readout").replaceChildren(...words.map(([title, value]) => {
      const item = document.createElement("span"), bold = document.createElement("b");
      bold.textContent = value;
      item.append(title + " ", bold);
      return item;
    }));
  }
  // With its drag mode NiiVue changes what the wheel does, too: here the wheel goes through the slices, zooms with Ctrl, and
  // the right button pans.
  const [SLICES, PAN] = [0, 3];
  stage.addEventListener("wheel", (e) => { viewers.upper.opts.dragMode = e.ctrlKey ? PAN : SLICES; }, { capture: true });
  stage.addEventListener("pointerdown", () => { viewers.upper.opts.dragMode = PAN; }, { capture: true });

  // Every change of the upper image comes through here: the lower one and the lines follow it.
  const draw = viewers.upper.drawScene.bind(viewers.upper);
  viewers.upper.drawScene = () => {
    const done = draw();
    if (viewers.lower.volumes.length && viewers.upper.volumes.length) {
      viewers.lower.scene.crosshairPos = [...viewers.upper.scene.crosshairPos];
      viewers.lower.scene.pan2Dxyzmm = [...viewers.upper.scene.pan2Dxyzmm];
      viewers.lower.drawScene();
      lines.draw();
      readout();
    }
    return done;
  };
  return {
    show,
    lines: () => lines.draw(),
    reset: () => { viewers.upper.scene.pan2Dxyzmm = [0, 0, 0, 1]; viewers.upper.drawScene(); },
    blend: (share) => { viewers.upper.canvas.style.opacity = share; lines.draw(); },
  };
}

function table(colors) {
  const parts = colors.map((c) => [1, 3, 5].map((n) => parseInt(c.slice(n, n + 2), 16)));
  const at = colors.map((_, n) => Math.round((255 * n) / (colors.length - 1)));
  const alpha = colors.map((c) => (c.length > 7 ? parseInt(c.slice(7), 16) : 255));
  return { R: parts.map((p) => p[0]), G: parts.map((p) => p[1]), B: parts.map((p) => p[2]), A: alpha, I: at };
}

async function pictureStage() {
  const stage = $("stage");
  stage.replaceChildren();
  stage.classList.add("still");
  const sides = {};
  for (const side of ["lower", "upper"]) stage.append((sides[side] = document.createElement("div")));
  return {
    show(side, layer) {
      const strip = document.querySelector(`#${layer.name} .strip`);
      const copies = [...strip.querySelectorAll("img")].map((img) => {
        const copy = img.cloneNode();
        copy.style.flex = img.parentElement.style.flex;
        return copy;
      });
      sides[side].replaceChildren(...copies);
    },
    lines() {},
    reset() {},
    blend: (share) => { sides.upper.style.opacity = share; },
  };
}

// --- controls -------------------------------------------------------------------------------------------------------

let stage = null;

async function choose(side, name) {
  const layer = layers.get(name);
  state[side] = name;
  $(side).value = name;
  const bar = $(side + "-bar");
  const [least, most] = layer.ends;
  bar.children[0].textContent = least;
  bar.children[1].style.background = `linear-gradient(90deg, ${layer.bar.join(",")})`;
  bar.children[2].textContent = most;
  bar.style.visibility = layer.bar.length ? "" : "hidden";
  await stage.show(side, layer);
  blend(state.share);
}

function blend(share) {
  state.share = Math.max(0, Math.min(1, share));
  $("share").value = Math.round(100 * state.share);
  const [lower, upper] = [layers.get(state.lower).title, layers.get(state.upper).title];
  $("shown").textContent = state.share === 0 ? lower : state.share === 1 ? upper
    : `${Math.round(100 * (1 - state.share))} % ${lower} + ${Math.round(100 * state.share)} % ${upper}`;
  stage.blend(state.share);
}

function flicker(on) {
  clearInterval(state.timer);
  state.timer = on ? setInterval(() => blend(state.share < 0.5 ? 1 : 0), 500) : 0;
  $("flicker").setAttribute("aria-pressed", String(on));
}

function toggle(what) {
  state[what] = !state[what];
  $(what).setAttribute("aria-pressed", String(state[what]));
  stage.lines();
}

async function swap() {
  const { lower, upper, share } = state;
  await choose("lower", upper);
  await choose("upper", lower);
  blend(1 - share);
}

function offer(names) {
  for (const side of ["lower", "upper"]) {
    $(side).replaceChildren(...names.map((name) => new Option(layers.get(name).title, name)));
  }
}

async function begin(make, names) {
  offer(names);
  stage = await make();
  for (const side of ["lower", "upper"]) {
    if (!names.includes(state[side])) state[side] = names[side === "lower" ? 0 : names.length - 1];
    await choose(side, state[side]);
  }
  section.classList.add("ready");
}

async function fallBack(why) {
  flicker(false);
  section.classList.add("pictures");
  $("why").textContent = scene.stores.length ? `Still pictures: ${why}.` : "";
  await begin(pictureStage, scene.layers.filter((layer) => layer.still).map((layer) => layer.name));
}

const keys = {
  " ": () => { flicker(false); blend(state.share < 0.5 ? 1 : 0); },
  f: () => flicker(!state.timer),
  x: swap,
  o: () => toggle("outlines"),
  g: () => toggle("grid"),
  r: () => stage.reset(),
  ArrowLeft: () => { flicker(false); blend(state.share - 0.1); },
  ArrowRight: () => { flicker(false); blend(state.share + 0.1); },
};
section.addEventListener("keydown", (event) => {
  const within = event.target.tagName;
  if (!stage || event.ctrlKey || event.altKey || event.metaKey || within === "SELECT") return;
  if (within === "BUTTON" && event.key === " ") return;
  if (within === "INPUT" && event.key.startsWith("Arrow")) return;
  const act = keys[event.key];
  if (!act) return;
  event.preventDefault();
  act();
});
for (const side of ["lower", "upper"]) $(side).addEventListener("change", () => choose(side, $(side).value));
$("share").addEventListener("input", () => { flicker(false); blend($("share").value / 100); });
$("flicker").addEventListener("click", () => flicker(!state.timer));
$("swap").addEventListener("click", swap);
for (const what of ["outlines", "grid"]) $(what).addEventListener("click", () => toggle(what));

async function start() {
  section.hidden = false;
  try {
    if (!scene.stores.length) throw new Error("no volumes");
    await begin(volumeStage, scene.layers.filter((layer) => layer.scan).map((layer) => layer.name));
  } catch (error) {
    await fallBack(error.message === "no WebGL 2" ? "this browser has no WebGL 2" : "the viewer could not start");
  }
}
start();
})();
