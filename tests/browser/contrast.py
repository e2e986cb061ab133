"""How well the words of a page stand out from what lies behind them, by the measure of WCAG 2.2, 1.4.3."""

from typing import Any

MEASURE = """() => {
  const paint = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const known = new Map();
  const rgba = colour => {  // however a style writes it
    if (!known.has(colour)) {
      paint.clearRect(0, 0, 1, 1);
      paint.fillStyle = colour;
      paint.fillRect(0, 0, 1, 1);
      const [r, g, b, a] = paint.getImageData(0, 0, 1, 1).data;
      known.set(colour, [r, g, b, a / 255]);
    }
    return known.get(colour);
  };
  const over = ([r, g, b, a], [R, G, B]) => [r * a + R * (1 - a), g * a + G * (1 - a), b * a + B * (1 - a)];
  const behind = new Map();  // of each element: the colour below its words, and how opaque it is with all round it
  const below = element => {
    if (!element) return {colour: rgba(getComputedStyle(document.documentElement).colorScheme.includes('dark')
      ? '#121212' : '#ffffff').slice(0, 3), opacity: 1, picture: false};
    if (!behind.has(element)) {
      const style = getComputedStyle(element), round = below(element.parentElement), own = rgba(style.backgroundColor);
      behind.set(element, {
        colour: over(own, round.colour),
        opacity: round.opacity * style.opacity,
        picture: own[3] < 1 && round.picture || style.backgroundImage !== 'none',
      });
    }
    return behind.get(element);
  };
  const light = colour => colour.map(part => part / 255)
    .map(part => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4)
    .reduce((sum, part, at) => sum + part * [0.2126, 0.7152, 0.0722][at], 0);
  const faults = new Map();
  let looked = 0;
  for (const element of document.querySelectorAll('body, body *')) {
    const words = [...element.childNodes].filter(node => node.nodeType === Node.TEXT_NODE && node.data.trim());
    if (!words.length && element.localName !== 'mjx-container') continue;
    if (element.closest('svg, script, style, noscript')) continue;
    const box = element.getBoundingClientRect();
    if (box.width <= 1 || box.height <= 1 || !element.checkVisibility({visibilityProperty: true})) continue;
    const {colour, opacity, picture} = below(element), style = getComputedStyle(element);
    if (picture || opacity === 0) continue;
    looked += 1;
    const ink = rgba(style.color), seen = over([...ink.slice(0, 3), ink[3] * opacity], colour);
    const [more, less] = [light(seen), light(colour)].sort((a, b) => b - a);
    const ratio = (more + 0.05) / (less + 0.05), size = parseFloat(style.fontSize);
    if (ratio < (size >= 24 || size >= 18.66 && style.fontWeight >= 700 ? 3 : 4.5)) {
      const name = element.localName + [...element.classList].map(one => `.${one}`).join('');
      const said = words[0]?.data.trim().slice(0, 30) ?? 'a formula';
      const hex = part => '#' + part.map(one => Math.round(one).toString(16).padStart(2, '0')).join('');
      faults.set(`${name} ${hex(seen)} on ${hex(colour)}`, `${ratio.toFixed(2)}: ${said}`);
    }
  }
  return [looked, [...faults].map(fault => fault.join(' '))];
}"""


def faint(page: Any) -> list[str]:
    """The kinds of words on a page that are too faint to be read: 4.5 is asked for, 3 of large ones.

    Raises:
        AssertionError: if there were no words to look at.
    """
    looked, faults = page.evaluate(MEASURE)
    assert looked, f"no words to look at: {page.url}"
    return faults
