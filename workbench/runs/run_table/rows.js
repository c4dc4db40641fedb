/* The rows of the table of runs: text and sort key of each column, and the searched text. No drawing. */
const STATE_WORDS = {
  queued: "Queued", starting: "Starting", training: "Training", evaluating: "Testing", paused: "Paused",
  finished: "Finished", cancelled: "Cancelled", failed: "Failed", killed: "Stopped",
};
const AT_WORK = new Set(["starting", "training", "evaluating"]);
const HALVES = ["offset", "scale"];

const grouped = (number) => number.toLocaleString("en");
/* An id begins with the time of the run, which has its own column. */
const nameOf = (run) => run.label || run.id.replace(/^\d{8}-\d{6}-(?=.)/, "");
const lastPart = (name) => (name || "").replace(/\/+$/, "").split("/").pop();

const stateWords = (run) => {
  if (run.problem) return "Damaged";
  const words = STATE_WORDS[run.state] || run.state;
  const working = run.state === "training" || run.state === "paused";
  return working && run.total_steps ? `${words} ${Math.floor((100 * run.step) / run.total_steps)} %` : words;
};

const percent = (share) => (100 * share).toFixed(1);
/* The score by the metric of the task: a share in percent, other metrics with their name. */
const scoreShort = ({ score }) => {
  if (!score) return "";
  return score.share ? `${percent(score.value)} %` : `${score.title} ${percent(score.value)}`;
};
const scoreRange = ({ score }) =>
  score ? `${percent(score.low)}–${percent(score.high)}, n ${grouped(score.n)}` : "";
const scoreLong = (run) =>
  run.score
    ? `${scoreShort(run)} (n = ${grouped(run.score.n)}, 95 % interval ${percent(run.score.low)}–${percent(run.score.high)})`
    : "";

const openCounts = ({ open }) => (open ? HALVES.map((half) => open[half] ?? "–").join(" / ") : "");
const openOf = ({ open }) => (open ? `of ${grouped(open.units)}` : "");
const openSum = ({ open }) => (open ? HALVES.reduce((sum, half) => sum + (open[half] ?? 0), 0) / open.units : -1);

const clock = (seconds) => {
  if (seconds === null || seconds === undefined) return "";
  const whole = Math.round(seconds);
  const [hours, minutes, rest] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  const two = (number) => String(number).padStart(2, "0");
  return hours ? `${hours}:${two(minutes)}:${two(rest)}` : `${minutes}:${two(rest)}`;
};

const bytes = (size) => {
  if (size >= 1e9) return `${(size / 1e9).toFixed(1)} GB`;
  if (size >= 1e6) return `${(size / 1e6).toFixed(1)} MB`;
  return `${Math.max(1, Math.round(size / 1e3))} kB`;
};

const MONTHS = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split(" ");
const begun = (seconds) => {
  const time = new Date(1000 * seconds);
  const two = (number) => String(number).padStart(2, "0");
  const year = time.getFullYear() === new Date().getFullYear() ? "" : ` ${time.getFullYear()}`;
  return `${time.getDate()} ${MONTHS[time.getMonth()]}${year}, ${two(time.getHours())}:${two(time.getMinutes())}`;
};

/* Columns: `text` of a cell, `quiet` text after it, `whole` text if the cell is shortened, and the `sort` key. The
 * column without a width takes the remaining space. */
const COLUMNS = [
  { key: "state", title: "Status", width: 104, text: stateWords, sort: (run) => stateWords(run) },
  { key: "name", title: "Name", width: 0, text: nameOf, sort: (run) => nameOf(run).toLowerCase() },
  { key: "created", title: "Begun", width: 102, text: (run) => begun(run.created), sort: (run) => -run.created },
  {
    key: "model", title: "Model", width: 148, text: (run) => lastPart(run.model), whole: (run) => run.model || "",
    sort: (run) => (lastPart(run.model) || "~").toLowerCase(),
  },
  { key: "task", title: "Data", width: 82, text: (run) => run.task || "", sort: (run) => (run.task || "~").toLowerCase() },
  { key: "method", title: "Method", width: 62, text: (run) => run.method, sort: (run) => run.method },
  {
    key: "n_train", title: "n", width: 48, number: true, hint: "Training examples",
    text: (run) => (run.n_train ? grouped(run.n_train) : ""), sort: (run) => -(run.n_train ?? -1),
  },
  {
    key: "score", title: "Test score", width: 180, number: true, text: scoreShort, quiet: scoreRange,
    hint: "Score of the task's metric on the test examples: the share that is answered right, or another metric with its name; with its 95 % interval and their number",
    sort: (run) => -(run.score?.value ?? -1),
  },
  {
    key: "open", title: "Open gates", width: 116, number: true, text: openCounts, quiet: openOf,
    hint: "Offset gates / scale gates that are not 0, out of all units", sort: (run) => -openSum(run),
  },
  { key: "seconds", title: "Time", width: 56, number: true, text: (run) => clock(run.seconds), sort: (run) => -(run.seconds ?? -1) },
  { key: "size", title: "Size", width: 74, number: true, text: (run) => bytes(run.size), sort: (run) => -run.size },
];

/* The runs that contain every word of the search. */
const searched = (runs, text) => {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  if (!words.length) return runs;
  return runs.filter((run) => {
    const all = [run.id, run.label, run.note, run.task, run.model, run.method, run.device, stateWords(run)].join("\n").toLowerCase();
    return words.every((word) => all.includes(word));
  });
};

/* The methods of the runs, for the filter. */
const methodsOf = (runs) => [...new Set(runs.map((run) => run.method))].sort();

/* Sort by a column, newest first among equals. */
const sorted = (runs, key, down) => {
  const { sort } = COLUMNS.find((column) => column.key === key);
  const turn = down ? -1 : 1;
  return [...runs].sort((one, other) => {
    const [a, b] = [sort(one), sort(other)];
    return a < b ? -turn : a > b ? turn : other.created - one.created;
  });
};

const factsOf = (run) => [
  ["Damaged", run.problem],
  [run.score?.title ?? "Test score", scoreLong(run)],
  ["Open gates", run.open ? HALVES.map((half) => `${half} ${run.open[half] ?? "not trained"}`).join(", ") + ` of ${grouped(run.open.units)}` : ""],
  ["Model", run.model || ""],
  ["Data", [run.task, run.n_train ? `${grouped(run.n_train)} training examples` : ""].filter(Boolean).join(", ")],
  ["Method", run.method],
  ["Seed", run.seed === null ? "" : String(run.seed)],
  ["Device", run.device || ""],
  ["Steps", run.total_steps ? `${grouped(run.step)} of ${grouped(run.total_steps)}` : ""],
  ["Time", clock(run.seconds)],
  ["Begun", begun(run.created)],
  ["Size", bytes(run.size)],
  ["Id", run.id],
];
