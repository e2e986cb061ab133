// What a page does by itself: columns that sort, pictures that open, blocks that scroll by keyboard.

const number = (text) => {
  const found = text.replace(/,/g, "").match(/^\s*[−-]?\d+(\.\d+)?/);
  return found ? Number(found[0].replace("−", "-")) : NaN;
};

/** Sort the rows of a table by a column; what is no number stands last, in the order of words. */
function sort(table, column, down) {
  const body = table.tBodies[0];
  const rows = [...body.rows].map((row) => ({ row, text: row.cells[column].textContent.trim() }));
  const numbers = rows.some(({ text }) => !Number.isNaN(number(text)));
  rows.sort((a, b) => {
    const [x, y] = [number(a.text), number(b.text)];
    if (!numbers || (Number.isNaN(x) && Number.isNaN(y))) return (down ? -1 : 1) * a.text.localeCompare(b.text);
    if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) ? 1 : -1;
    return (down ? -1 : 1) * (x - y);
  });
  body.append(...rows.map(({ row }) => row));
}

for (const table of document.querySelectorAll(".sortable table")) {
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    head.setAttribute("aria-sort", "none");
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      for (const other of table.tHead.rows[0].cells) other.setAttribute("aria-sort", "none");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      sort(table, column, down);
    });
  });
}

for (const picture of document.querySelectorAll(".bd-article .output img:not(.frames img)")) {
  const link = document.createElement("a");
  link.className = "whole";
  link.href = picture.src;
  link.title = "The picture alone, to look at it closely";
  picture.replaceWith(link);
  link.append(picture);
  const told = document.createElement("p"); // on a phone the words in the picture are too small to read
  told.className = "told";
  told.setAttribute("aria-hidden", "true");
  told.textContent = picture.alt;
  link.after(told);
}

// A control whose pictures were drawn beforehand. They are asked for when a reader comes near it.
for (const frames of document.querySelectorAll(".frames")) {
  const [slider, place, picture] = ["input", "output", "img"].map((part) => frames.querySelector(part));
  const places = JSON.parse(frames.querySelector("script").textContent);
  const near = () => places.forEach(({ file }) => { new Image().src = file; });
  for (const event of ["pointerover", "focusin", "touchstart"]) frames.addEventListener(event, near, { once: true, passive: true });
  slider.addEventListener("input", () => {
    const { at, file, alt } = places[slider.value];
    place.textContent = at;
    slider.setAttribute("aria-valuetext", at);
    picture.src = file;
    picture.alt = alt;
  });
}

// A block that scrolls sideways is reached by keyboard, too.
const reach = () => {
  const blocks = ".bd-article :is(pre, .pst-scrollable-table-container, div.math, mjx-container[display='true'])";
  for (const block of document.querySelectorAll(blocks)) {
    if (block.scrollWidth > block.clientWidth + 1 && block.tabIndex < 0) block.tabIndex = 0; // the theme comes later
  }
};
window.addEventListener("load", () => setTimeout(reach, 0));
window.addEventListener("resize", reach);
document.addEventListener("toggle", reach, true);
