// The photograph, on which a line can be dragged. The value is JSON: the line in shares of width and height, and its
// length in pixels of the photograph and angle in degrees, counter-clockwise from the horizontal.
const steps = [1, 1.5, 2, 3, 4, 6, 8, 12, 16];
let step = 0;
let line = null;
let dragging = null;
let source = null;
const find = (name) => element.querySelector(name);
const drawable = () => element.closest('.drawable') !== null;

const measure = () => {
  const dx = (line[2] - line[0]) * props.pw, dy = (line[3] - line[1]) * props.ph;
  const turned = ((Math.atan2(-dy, dx) * 180) / Math.PI + 360) % 180;
  return { length: Math.round(Math.hypot(dx, dy) * 10) / 10, angle: Math.round(turned * 10) / 10 };
};

const paint = () => {
  const svg = find('svg'), sheet = find('.sheet');
  if (!svg) return;
  sheet.style.width = `${100 * steps[step]}%`;
  find('.factor').textContent = `${steps[step]}\u00d7`;
  svg.classList.toggle('drawn', line !== null);
  if (line === null) {
    find('.told').textContent = 'Drag along a streak.';
    return;
  }
  const percent = line.map((n) => `${100 * n}%`);
  for (const part of svg.querySelectorAll('line'))
    ['x1', 'y1', 'x2', 'y2'].forEach((name, i) => part.setAttribute(name, percent[i]));
  svg.querySelectorAll('circle').forEach((dot, i) => {
    dot.setAttribute('cx', percent[2 * i]);
    dot.setAttribute('cy', percent[2 * i + 1]);
  });
  const { length, angle } = measure();
  find('.told').textContent = `${length} px, ${angle}\u00b0`;
};

const place = (event) => {
  const box = find('.sheet').getBoundingClientRect();
  const inside = (n) => Math.min(1, Math.max(0, n));
  return [inside((event.clientX - box.left) / box.width), inside((event.clientY - box.top) / box.height)];
};

const zoom = (next) => {
  const view = find('.window');
  const before = steps[step];
  step = Math.min(steps.length - 1, Math.max(0, next));
  const ratio = steps[step] / before;
  const x = view.scrollLeft + view.clientWidth / 2, y = view.scrollTop + view.clientHeight / 2;
  paint();
  view.scrollLeft = x * ratio - view.clientWidth / 2;
  view.scrollTop = y * ratio - view.clientHeight / 2;
};

element.addEventListener('pointerdown', (event) => {
  if (!drawable() || !event.isPrimary || event.button !== 0 || !event.target.closest('.sheet')) return;
  event.preventDefault();
  dragging = place(event);
  element.setPointerCapture(event.pointerId);
});
element.addEventListener('pointermove', (event) => {
  if (dragging === null || !event.isPrimary) return;
  line = [...dragging, ...place(event)];
  paint();
});
const finish = (event) => {
  if (dragging === null || !event.isPrimary) return;
  dragging = null;
  // A click without a drag takes the line away.
  if (line !== null && measure().length < 1) line = null;
  paint();
  props.value = line === null ? '' : JSON.stringify({ line, ...measure() });
  trigger('input');
};
element.addEventListener('pointerup', finish);
element.addEventListener('pointercancel', finish);
element.addEventListener('click', (event) => {
  const button = event.target.closest('button[data-zoom]');
  if (button) zoom(step + (button.dataset.zoom === 'in' ? 1 : -1));
});

// Whenever the template was rendered anew, what is drawn over it has to be drawn again.
new MutationObserver(() => {
  if (props.src !== source) {
    source = props.src;
    line = null;
    step = 0;
  }
  if (dragging === null && find('svg') && !find('svg').dataset.painted) {
    find('svg').dataset.painted = 'yes';
    paint();
  }
}).observe(element, { childList: true, subtree: true });
paint();
