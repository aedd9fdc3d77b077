// The machine: load, memory, disk and GPUs; which runs hold the slots, and which are queued and why.

import { el } from "./dom.js";
import * as format from "./format.js";

const SAME_DISK = 0.001; // of its size

/** Draw the response of /api/machine into `root`. `linkTo(run)` returns the address of a run's page. */
export function drawMachine(root, document_, linkTo) {
  const { machine, limits, slots, queue } = document_;
  root.replaceChildren(
    el("div", { class: "gauges" }, ...gauges(machine, limits, slots)),
    ...(queue.length ? [queued(queue, linkTo)] : []),
  );
}

function* gauges(machine, limits, slots) {
  const { taken } = slots;
  yield gauge("Slots", `${taken.length} of ${slots.limit}`, taken.length / slots.limit, {
    title: taken.map(holdings).join("\n") || "no run holds a slot",
    tone: "calm",
  });
  const cpus = machine.cpu_count;
  yield gauge(
    "Load",
    machine.load_1min === null ? "–" : `${machine.load_1min.toFixed(2)} on ${cpus ?? "?"} cores`,
    machine.load_1min !== null && cpus ? machine.load_1min / cpus : null,
    { title: "1-minute load average", tone: "calm" },
  );
  yield filled("RAM", machine.ram_available_bytes, machine.ram_total_bytes, limits.min_free_ram_bytes);
  const found = [...disks(machine)];
  for (const { free, total, folders } of found)
    yield filled(
      found.length > 1 ? `Disk ${folders[0].split("/").at(-1) || "/"}` : "Disk",
      free,
      total,
      limits.min_free_disk_bytes,
      folders.join("\n"),
    );
  if (machine.gpus === null)
    yield gauge("GPUs", "unknown", null, { title: format.visible(machine.gpu_problem ?? "GPUs cannot be read") });
  for (const gpu of machine.gpus ?? []) {
    const title = [
      format.visible(gpu.name, 80),
      gpu.utilization_percent === null ? null : `${gpu.utilization_percent} % busy`,
      gpu.power_w === null ? null : `${Math.round(gpu.power_w)} W`,
    ]
      .filter(Boolean)
      .join(", ");
    yield filled(`GPU ${gpu.index}`, gpu.vram_free_bytes, gpu.vram_total_bytes, limits.gpu_min_free_vram_bytes, title);
    if (gpu.temp_c !== null) {
      yield gauge(
        `GPU ${gpu.index} temp`,
        `${gpu.temp_c > limits.gpu_max_temp_c ? "hot: " : ""}${gpu.temp_c} °C`,
        gpu.temp_c / limits.gpu_max_temp_c,
        { title: `no session starts above ${limits.gpu_max_temp_c} °C`, isShort: gpu.temp_c > limits.gpu_max_temp_c },
      );
    }
  }
}

const nameOf = ({ name, run_id: run }) => format.visible(name || run, 40);

const holdings = ({ ram_seen_bytes: used, ram_promised_bytes: reserved, ...ticket }) =>
  `${nameOf(ticket)}: ${format.size(used)} of RAM (reserved ${format.size(reserved)})`;

/** Groups folders by file system: the same size, and the same free space but for writes between two readings. */
function disks({ disk_free_bytes: free, disk_total_bytes: total }) {
  const found = [];
  for (const folder of Object.keys(free ?? {})) {
    const size = total?.[folder] ?? null;
    let disk = found.find((other) => other.total === size && Math.abs(other.free - free[folder]) <= SAME_DISK * size);
    if (disk === undefined) found.push((disk = { free: free[folder], total: size, folders: [] }));
    disk.folders.push(format.visible(folder, 200));
  }
  return found;
}

/** A gauge of what is used, in words as in its bar, with a mark where too little is left to start a run. */
function filled(label, free, total, needed, more = "") {
  if (free === null || free === undefined) return gauge(label, "–", null, { title: more });
  const used = total ? 1 - free / total : null;
  const text = total ? `${format.size(total - free)} of ${format.size(total)}` : `${format.size(free)} free`;
  const amounts = `${format.size(free)} free, ${format.size(needed)} needed to start`;
  return gauge(label, free < needed ? `full: ${text}` : text, used, {
    title: `${amounts}${more && `\n${more}`}`,
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
  return el(
    "div",
    { class: `gauge ${tone_}`, title },
    el("span", { class: "label", text: label }),
    el("span", { class: "value", text }),
    el(
      "span",
      {
        role: "meter",
        "aria-label": label,
        "aria-valuemin": 0,
        "aria-valuemax": 100,
        "aria-valuenow": Math.round(known * 100),
        "aria-valuetext": text,
        class: "meter",
      },
      bar,
    ),
  );
}

function queued(queue, linkTo) {
  return el(
    "ol",
    { class: "queue", "aria-label": "Queue" },
    ...queue.map((ticket) =>
      el(
        "li",
        {},
        el("a", { href: linkTo(ticket.run_id), text: nameOf(ticket), title: ticket.run_id }),
        el("span", { class: "faint", text: ` queued for ${format.age(ticket.since, Date.now())}: ` }),
        el("bdi", {
          text: ticket.is_away
            ? "suspended: later runs may start first"
            : format.visible(ticket.waits_for ?? "checking resources", 300),
        }),
      ),
    ),
  );
}
