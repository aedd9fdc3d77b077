// The machine: how full it is, who holds the slots, who waits and for what.

import { el } from "./dom.js";
import * as format from "./format.js";

const SAME_DISK = 0.001; // of its size

/** Draw what /api/machine says into `root`. `linkTo(run)` gives the address of a run's page. */
export function drawMachine(root, document_, linkTo) {
  const { machine, limits, slots, queue } = document_;
  root.replaceChildren(
    el("div", { class: "gauges" }, ...gauges(machine, limits, slots)),
    ...(queue.length ? [waiting(queue, linkTo)] : []),
  );
}

function* gauges(machine, limits, slots) {
  const { taken } = slots;
  yield gauge("Slots", `${taken.length} of ${slots.limit}`, taken.length / slots.limit, {
    title: taken.map((ticket) => `${ticket.run_id}: ${format.size(ticket.ram_seen_bytes)} of RAM (promised ${format.size(ticket.ram_promised_bytes)})`).join("\n") || "no run holds a slot",
    tone: "calm",
  });
  const cpus = machine.cpu_count;
  yield gauge("Load", machine.load_1min === null ? "–" : `${machine.load_1min.toFixed(2)} on ${cpus ?? "?"} cores`,
    machine.load_1min !== null && cpus ? machine.load_1min / cpus : null, { title: "processes that want a core, over the last minute", tone: "calm" });
  yield filled("RAM", machine.ram_available_bytes, machine.ram_total_bytes, limits.min_free_ram_bytes);
  const found = [...disks(machine)];
  for (const { free, total, folders } of found) yield filled(found.length > 1 ? `Disk ${folders[0].split("/").at(-1) || "/"}` : "Disk", free, total, limits.min_free_disk_bytes, folders.join("\n"));
  if (machine.gpus === null) yield gauge("GPUs", "unknown", null, { title: format.visible(machine.gpu_problem ?? "nobody can tell") });
  for (const gpu of machine.gpus ?? []) {
    const title = [format.visible(gpu.name, 80), gpu.utilization_percent === null ? null : `${gpu.utilization_percent} % busy`, gpu.power_w === null ? null : `${Math.round(gpu.power_w)} W`].filter(Boolean).join(", ");
    yield filled(`GPU ${gpu.index}`, gpu.vram_free_bytes, gpu.vram_total_bytes, limits.gpu_min_free_vram_bytes, title);
    if (gpu.temp_c !== null) {
      yield gauge(`GPU ${gpu.index} heat`, `${gpu.temp_c > limits.gpu_max_temp_c ? "hot: " : ""}${gpu.temp_c} °C`, gpu.temp_c / limits.gpu_max_temp_c,
        { title: `no session starts above ${limits.gpu_max_temp_c} °C`, isShort: gpu.temp_c > limits.gpu_max_temp_c });
    }
  }
}

/** Folders on the same file system are one disk: of one size, and as free but for what was written between two looks. */
function disks({ disk_free_bytes: free, disk_total_bytes: total }) {
  const found = [];
  for (const folder of Object.keys(free ?? {})) {
    const size = total?.[folder] ?? null;
    let disk = found.find((other) => other.total === size && Math.abs(other.free - free[folder]) <= SAME_DISK * size);
    if (disk === undefined) found.push(disk = { free: free[folder], total: size, folders: [] });
    disk.folders.push(format.visible(folder, 200));
  }
  return found;
}

/** What is used of something, with a line where too little is left for a start. */
function filled(label, free, total, needed, more = "") {
  if (free === null || free === undefined) return gauge(label, "–", null, { title: more });
  const used = total ? 1 - free / total : null;
  return gauge(label, free < needed ? `low: ${format.size(free)}` : `${format.size(free)} free`, used, {
    title: `${format.size(free)} free of ${format.size(total)}; a start needs ${format.size(needed)}${more && `\n${more}`}`,
    limit: total ? 1 - needed / total : null,
    isShort: free < needed,
  });
}

function gauge(label, text, share, { title = "", limit = null, isShort = false, tone = "" }) {
  const known = share === null ? 0 : Math.max(0, Math.min(1, share));
  const fill = el("span", { class: "fill" });
  fill.style.transform = `scaleX(${known})`;
  const bar = el("span", { class: "bar" }, fill);
  if (limit !== null && limit > 0 && limit < 1) {
    const mark = el("span", { class: "limit" });
    mark.style.left = `${limit * 100}%`;
    bar.append(mark);
  }
  const tone_ = isShort ? "short" : known > 0.9 && tone !== "calm" ? "near" : "";
  return el("div", { class: `gauge ${tone_}`, title },
    el("span", { class: "label", text: label }), el("span", { class: "value", text }),
    el("span", { role: "meter", "aria-label": label, "aria-valuemin": 0, "aria-valuemax": 100, "aria-valuenow": Math.round(known * 100), "aria-valuetext": text, class: "meter" }, bar));
}

function waiting(queue, linkTo) {
  return el("ol", { class: "queue", "aria-label": "Queue" }, ...queue.map((ticket) => el("li", {},
    el("a", { href: linkTo(ticket.run_id), text: format.visible(ticket.run_id, 40) }),
    el("span", { class: "faint", text: ` waits ${format.age(ticket.since, Date.now())}: ` }),
    el("bdi", { text: ticket.is_away ? "suspended, others pass" : format.visible(ticket.waits_for ?? "its turn is being looked at", 300) }))));
}
