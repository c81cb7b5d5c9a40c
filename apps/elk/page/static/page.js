// The page over the store's LogsQL: what is asked, and how it is shown.
'use strict';

const colours = { 2: '#2a9d5f', 3: '#3873b3', 4: '#f0a030', 5: '#c0392b', '?': '#888' };
const facetFields = ['status', 'path', 'method', 'instance', 'host'];
const columns = ['instance', 'status', 'method', 'path', 'duration_ms', 'client'];
const bars = 90;
const rowLimit = 100;
const every = 2000; // milliseconds

const $ = (id) => document.getElementById(id);
const filters = new Map();
let chart = null;
let statuses = [];
let asking = null;

function element(tag, className, text) {
  const e = document.createElement(tag);
  if (className) e.className = className;
  e.textContent = text; // never as HTML: logs hold what strangers wrote
  return e;
}

const classOf = (status) => /^[2-5]\d\d$/.test(status) ? status[0] : '?';
const quoted = (value) => JSON.stringify(value);

// query is LogsQL of the search and the filters.
function query() {
  const text = $('text').value.trim();
  const parts = [text === '' ? '*' : `(${text})`];
  for (const [field, value] of filters) parts.push(`${field}:=${quoted(value)}`);
  return parts.join(' ');
}

async function ask(question, params, signal) {
  const answer = await fetch(`api/${question}?${new URLSearchParams(params)}`, { signal });
  const body = await answer.text();
  if (!answer.ok) throw new Error(body.slice(0, 1000));
  return body;
}

async function refresh() {
  asking?.abort();
  const mine = asking = new AbortController();
  const span = Number($('span').value);
  const step = Math.max(1, Math.round(span / bars));
  const end = Math.ceil(Date.now() / 1000 / step) * step;
  const range = { query: query(), start: end - span, end };
  try {
    const [hits, facets, rows] = await Promise.all([
      ask('hits', { ...range, step: `${step}s`, field: 'status' }, mine.signal),
      ask('facets', { ...range, limit: 8, keep_const_fields: 1 }, mine.signal),
      ask('query', { ...range, limit: rowLimit, query: `${range.query} | sort by (_time) desc` }, mine.signal),
    ]);
    showHits(JSON.parse(hits).hits, range.start, end, step);
    showFacets(JSON.parse(facets).facets);
    showRows(rows.split('\n').filter(Boolean).map((line) => JSON.parse(line)));
    $('problem').hidden = true;
  } catch (problem) {
    if (mine.signal.aborted) return;
    // The store says first where it was asked, which the reader knows.
    $('problem').textContent = problem.message.replace(/^remoteAddr: .*?requestURI: \S+; /, '');
    $('problem').hidden = false;
  }
}

// showHits draws bars, one status on the other.
function showHits(hits, start, end, step) {
  const times = [];
  for (let t = start; t < end; t += step) times.push(t);
  const counts = new Map();
  let total = 0;
  for (const group of hits) {
    const status = group.fields.status || '?';
    const row = counts.get(status) ?? new Array(times.length).fill(0);
    group.timestamps.forEach((at, i) => {
      const n = Math.floor((Date.parse(at) / 1000 - start) / step);
      if (n >= 0 && n < row.length) row[n] += group.values[i];
    });
    total += group.total;
    counts.set(status, row);
  }
  const names = [...counts.keys()].sort();
  const sum = new Array(times.length).fill(0);
  const stacked = names.map((name) => counts.get(name).map((n, i) => sum[i] += n));
  // The highest is drawn first and the others over it.
  const data = [times, ...stacked.reverse()];
  const order = [...names].reverse();
  $('total').textContent = `${total.toLocaleString('en')} events`;
  $('total').dataset.total = total;
  if (!chart || order.join() !== statuses.join()) {
    chart?.destroy();
    statuses = order;
    chart = new uPlot(options(order), data, $('chart'));
  } else {
    chart.setData(data);
  }
}

function options(order) {
  const soft = getComputedStyle(document.body).color;
  return {
    width: $('chart').clientWidth,
    height: 200,
    cursor: { points: { show: false } },
    legend: { live: false },
    scales: { y: { range: (_, low, high) => [0, Math.max(1, high)] } },
    axes: [{ stroke: soft }, { stroke: soft, size: 50 }],
    series: [{}, ...order.map((name) => ({
      label: name,
      fill: colours[classOf(name)],
      stroke: colours[classOf(name)],
      width: 0,
      paths: uPlot.paths.bars({ size: [0.9], align: 1 }),
      points: { show: false },
    }))],
  };
}

function showFacets(facets) {
  const parts = [];
  for (const field of facetFields) {
    const facet = facets.find((f) => f.field_name === field);
    if (!facet) continue;
    parts.push(element('h2', '', field));
    for (const { field_value: value, hits } of facet.values) {
      const button = element('button', '', '');
      button.append(element('span', 'value', value), element('span', 'count', hits.toLocaleString('en')));
      button.dataset.field = field;
      button.dataset.value = value;
      parts.push(button);
    }
  }
  $('facets').replaceChildren(...parts);
}

function showRows(rows) {
  $('rows').replaceChildren(...rows.map((row) => {
    const tr = document.createElement('tr');
    tr.title = row._msg ?? '';
    tr.append(element('td', '', (row._time ?? '').replace('T', ' ').slice(0, 23)));
    for (const column of columns) {
      const name = column === 'status' ? `s${classOf(row.status)}` : column;
      const value = row[column] ?? '';
      tr.append(element('td', name, column === 'duration_ms' && value !== '' ? Number(value).toFixed(1) : value));
    }
    return tr;
  }));
}

function showFilters() {
  $('filters').replaceChildren(...[...filters].map(([field, value]) => {
    const button = element('button', '', `${field}: ${value}  ×`);
    button.dataset.field = field;
    return button;
  }));
}

$('facets').addEventListener('click', (event) => {
  const button = event.target.closest('button');
  if (!button) return;
  filters.set(button.dataset.field, button.dataset.value);
  showFilters();
  remember();
  refresh();
});
$('filters').addEventListener('click', (event) => {
  const button = event.target.closest('button');
  if (!button) return;
  filters.delete(button.dataset.field);
  showFilters();
  remember();
  refresh();
});
$('search').addEventListener('submit', (event) => { event.preventDefault(); remember(); refresh(); });
$('search').addEventListener('change', () => { remember(); refresh(); });
addEventListener('resize', () => chart?.setSize({ width: $('chart').clientWidth, height: 200 }));

// What is looked at is in the address, so that it can be handed on.
function remember() {
  const state = new URLSearchParams({ q: $('text').value.trim(), span: $('span').value });
  for (const [field, value] of filters) state.append('f', `${field}=${value}`);
  history.replaceState(null, '', `#${state}`);
}

function recall() {
  const state = new URLSearchParams(location.hash.slice(1));
  $('text').value = state.get('q') ?? '';
  if ([...$('span').options].some((o) => o.value === state.get('span'))) $('span').value = state.get('span');
  filters.clear();
  for (const f of state.getAll('f')) {
    const at = f.indexOf('=');
    if (at > 0) filters.set(f.slice(0, at), f.slice(at + 1));
  }
  showFilters();
}
addEventListener('hashchange', () => { recall(); refresh(); });
recall();

async function live() {
  if ($('live').checked && !document.hidden) await refresh();
  setTimeout(live, every);
}
live();
