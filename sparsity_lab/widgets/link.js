// Reads and writes the links of link.py, whose RULES are given to each function as data: there the format is described,
// and a test compares the two. Texts in a link come from anybody: put them on a page as textContent only.

const LISTS = ["hide", "fix"];
const cut = (text) => ([...text].length <= 40 ? text : `${[...text].slice(0, 40).join("")}…`);

// An address, or the part of it that follows # or ? → { values, lesson, hide, fix, notes }, with the names of the fields
// of Settings for the keys. No text makes it fail.
export function readLink(text, rules) {
    const link = { values: {}, lesson: "", hide: [], fix: [], notes: [] };
    if ([...text].length > rules.longest) {
        link.notes.push(`The link has over ${rules.longest} characters: it is ignored.`);
        return link;
    }
    const { given, unknown, notes } = pairs(text, rules);
    link.notes = notes;
    for (const rule of rules.keys.filter((rule) => given.has(rule.key))) {
        const written = given.get(rule.key), value = valueOf(rule, written);
        if (value !== undefined) link.values[rule.name] = value;
        else notes.push(`The link's ${rule.key}=${cut(written)} is not ${rule.says}: the default is used.`);
    }

    link.lesson = given.get("lesson") ?? "";
    if ([...link.lesson].length > rules.question) {
        notes.push(`The link's lesson has over ${rules.question} characters: it is left out.`);
        link.lesson = "";
    }
    for (const key of LISTS) {
        const named = (given.get(key) ?? "").split(",").filter(Boolean);
        link[key] = rules.keys.filter((rule) => named.includes(rule.key)).map((rule) => rule.name);
        const none = named.find((name) => !rules.keys.some((rule) => rule.key === name));
        if (none !== undefined) notes.push(`The link's ${key} has ${cut(none)}, which is no control.`);
    }
    if (unknown.length) notes.push(`The link has ${cut(unknown[0])}, which is not known here: it is ignored.`);
    return link;
}

// The inverse of readLink, without ? or #. It writes no note.
export function writeLink(link, rules) {
    const parts = [];
    for (const rule of rules.keys.filter((rule) => Object.hasOwn(link.values, rule.name))) {
        const value = link.values[rule.name];
        if (typeof value === "boolean") parts.push([rule.key, value ? "1" : "0"]);
        else parts.push([rule.key, typeof value === "number" ? numberOf(value) : encode(value)]);
    }
    if (link.lesson) parts.push(["lesson", encode(link.lesson)]);
    for (const key of LISTS) {
        const keys = rules.keys.filter((rule) => link[key]?.includes(rule.name)).map((rule) => rule.key);
        if (keys.length) parts.push([key, keys.join(",")]);
    }
    return parts.map((part) => part.join("=")).join("&");
}

function pairs(text, rules) {
    text = text.replace(/^[ \t\r\n]+|[ \t\r\n]+$/g, "");
    const address = /^(?:[a-z]+:\/\/[^?#]*|[^?#=]*(?=[?#]))/.exec(text);
    if (address) {
        const rest = text.slice(address[0].length), at = rest.indexOf("#");
        const query = at < 0 ? rest : rest.slice(0, at), fragment = at < 0 ? "" : rest.slice(at + 1);
        text = (fragment.includes("=") ? fragment : query).replace(/^\?/, "");
    }
    const given = new Map(), unknown = [], notes = new Set();
    const known = new Set([...rules.keys.map((rule) => rule.key), "lesson", ...LISTS]);
    for (const [key, value] of new URLSearchParams(`?${text}`)) { // it drops one ? itself
        if (given.has(key)) notes.add(`The link has ${key} more than once: the first is used.`);
        else if (known.has(key)) given.set(key, value);
        else if (!rules.page.includes(key)) unknown.push(key);
    }
    return { given, unknown, notes: [...notes] };
}

// undefined for what the control can't have
function valueOf(rule, written) {
    if (rule.choices) return Object.hasOwn(rule.choices, written) ? rule.choices[written] : undefined;
    written = written.replace("e ", "e+"); // in an address, a plus stands for a space
    const value = /^([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?$/.test(written) ? Number(written) : -1;
    return value >= rule.low && value <= rule.high && !(rule.step && value % rule.step) ? value : undefined;
}

const encode = (text) =>
    encodeURIComponent(text).replace(/[!'()*~]/g, (c) => `%${c.charCodeAt(0).toString(16).toUpperCase()}`);

// As short as a link needs it: 1e11, 0.9375, 32.
function numberOf(value) {
    return value === 0 || (value >= 1e-4 && value < 1e5) ? String(value) : value.toExponential().replace("e+", "e");
}
