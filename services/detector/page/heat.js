// A heatmap, rows of numbers 0…1, as colours and as words.

const COLOURS = ["#000004", "#56106e", "#bb3754", "#f98c0a", "#fcffa4"].map((hex) =>
  [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16)),
);

export function draw(canvas, rows) {
  const size = rows.length;
  canvas.width = canvas.height = size;
  const context = canvas.getContext("2d");
  const image = context.createImageData(size, size);
  rows.flat().forEach((value, k) => {
    const at = value * (COLOURS.length - 1);
    const low = Math.min(Math.floor(at), COLOURS.length - 2);
    const colour = COLOURS[low].map((from, c) => from + (COLOURS[low + 1][c] - from) * (at - low));
    image.data.set([...colour, 255], 4 * k);
  });
  context.putImageData(image, 0, 0);
}

/** Where the strongest evidence lies, for those who cannot see the colours. */
export function describe(rows) {
  let total = 0;
  let x = 0;
  let y = 0;
  rows.forEach((row, j) =>
    row.forEach((value, i) => {
      total += value ** 2;
      x += value ** 2 * (i + 0.5);
      y += value ** 2 * (j + 0.5);
    }),
  );
  if (!total) return "none";
  const third = (sum, names) => names[Math.floor((3 * sum) / total / rows.length)];
  const where = [third(y, ["upper", "", "lower"]), third(x, ["left", "", "right"])].filter(Boolean).join(" ");
  return where ? `mostly ${where}` : "around the middle";
}
