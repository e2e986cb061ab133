// Start a deck. A slide that is fuller than the screen is set smaller, down to a size that the last row still reads.

const FULL = 690; // of 720
const SMALLEST = 15; // px

// A table, a formula or a line of code that reaches into the margins, where the arrows stand.
const wide = (slide) => {
  const { paddingLeft, paddingRight } = getComputedStyle(slide);
  const room = slide.clientWidth - parseFloat(paddingLeft) - parseFloat(paddingRight) + 1;
  return [...slide.querySelectorAll(":scope > :not(aside), li, mjx-container[display='true']")].some(
    (part) => part.offsetWidth > room || part.scrollWidth > part.clientWidth + 1,
  );
};

const fit = () => {
  for (const slide of document.querySelectorAll(".slides > section")) {
    const shown = slide.style.display;
    slide.style.display = "block";
    let size = 30;
    while ((slide.scrollHeight > FULL || wide(slide)) && size > SMALLEST) {
      size -= 1;
      slide.style.fontSize = `${size}px`;
    }
    slide.style.display = shown;
  }
};

Reveal.initialize({
  width: 1280, height: 720, margin: 0.03, center: false, hash: true, slideNumber: "c/t", transition: "none", controlsLayout: "edges",
  plugins: [RevealNotes],
}).then(() => window.MathJax?.startup?.promise).then(() => {
  fit();
  Reveal.layout();
  document.documentElement.dataset.ready = "yes";
});
