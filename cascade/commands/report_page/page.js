"use strict";
(() => {
  const of = (id) => document.getElementById(id);
  const cards = [...document.querySelectorAll(".card")];
  const words = cards.map((card) => card.dataset.find.toLowerCase());
  const chips = [...document.querySelectorAll(".chips button")];
  const [find, count, none, detail, large, views] = ["find", "count", "none", "detail", "large-img", "views"].map(of);
  let shown = cards, open = null, view = 0, data = null, opener = null;

  // Filter: every word must be in the class or be the seed; a chip is a whole class.
  function filter() {
    const wanted = find.value.toLowerCase().split(/\s+/).filter(Boolean);
    const chip = chips.find((each) => each.getAttribute("aria-pressed") === "true");
    shown = cards.filter((card, i) => {
      const right = (!chip || card.dataset.of === chip.dataset.of) && wanted.every((word) => words[i].includes(word));
      card.hidden = !right;
      return right;
    });
    none.hidden = shown.length > 0;
    count.textContent = shown.length === cards.length ? `${cards.length} pictures` : `${shown.length} of ${cards.length}`;
  }
  find.addEventListener("input", filter);
  chips.forEach((chip) => chip.addEventListener("click", () => {
    const was = chip.getAttribute("aria-pressed") === "true";
    chips.forEach((each) => each.setAttribute("aria-pressed", String(each === chip && !was)));
    filter();
  }));

  // One picture, stage by stage. Its data lie in an element of their own and are read when it is opened.
  const element = (name, text) => {
    const made = document.createElement(name);
    if (text !== undefined) made.textContent = text;
    return made;
  };
  function picture(source, alt, exact) {
    const img = element("img");
    img.alt = alt;
    img.src = source;
    img.decoding = "async";
    img.classList.toggle("exact", Boolean(exact));
    return img;
  }
  const source = (each, card) => each.src || (each.of ? of(each.of).textContent : card.querySelector("img").src);

  function show(card) {
    if (open === null) opener = card;
    open = card;
    data = JSON.parse(of(`data-${card.id}`).textContent);
    const place = shown.indexOf(card);
    of("detail-title").textContent = data.name;
    of("detail-place").textContent = place < 0 ? data.file : `${place + 1} of ${shown.length}`;
    of("before").disabled = place <= 0;
    of("next").disabled = place < 0 || place === shown.length - 1;
    views.replaceChildren(...data.views.map((each, i) => {
      const button = element("button");
      button.type = "button";
      button.append(picture(source(each, card), "", each.exact), element("span", each.name), element("span", each.size));
      button.addEventListener("click", () => choose(i));
      return button;
    }));
    of("near").hidden = data.near.length === 0;
    of("near-list").replaceChildren(...data.near.map((each) => {
      const figure = element("figure");
      figure.append(picture(source(each, card), each.alt, each.exact), element("figcaption", each.caption));
      return figure;
    }));
    of("again").hidden = !data.command;
    of("command").textContent = data.command;
    of("copy").textContent = "Copy the command";
    of("file").href = data.href;
    of("to-steps").hidden = !data.steps;
    if (data.steps) of("to-steps").firstElementChild.href = `#${data.steps}`;
    // Of two pictures in turn the same stage is looked at.
    choose(view < data.views.length && view >= 0 ? view : data.views.findIndex((each) => each.output));
    if (!detail.open) detail.showModal();
    history.replaceState(null, "", `#${card.id}`);
  }

  function choose(i) {
    view = i;
    const each = data.views[i], card = open;
    large.alt = each.alt;
    large.classList.toggle("exact", Boolean(each.exact));
    large.src = each.full || source(each, card);
    of("large-caption").textContent = each.caption;
    [...views.children].forEach((button, k) => button.setAttribute("aria-pressed", String(k === i)));
    if (!each.href || each.full) return;
    // Beside its folder the page shows the file itself; sent alone, it keeps the small picture.
    const whole = new Image();
    whole.onload = () => { if (open === card && view === i) large.src = whole.src; };
    whole.src = each.href;
  }

  function step(by) {
    const next = shown[shown.indexOf(open) + by];
    if (next) show(next);
  }
  function copy() {
    if (!data.command) return;
    const done = () => { of("copy").textContent = "Copied"; };
    const select = () => { getSelection().selectAllChildren(of("command")); if (document.execCommand("copy")) done(); };
    if (navigator.clipboard) navigator.clipboard.writeText(data.command).then(done, select);
    else select();
  }
  of("grid").addEventListener("click", (event) => {
    const card = event.target.closest(".card");
    if (!card || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    show(card);
  });
  of("before").addEventListener("click", () => step(-1));
  of("next").addEventListener("click", () => step(1));
  of("close").addEventListener("click", () => detail.close());
  of("copy").addEventListener("click", copy);
  of("to-steps").addEventListener("click", () => { opener = null; detail.close(); });
  detail.addEventListener("click", (event) => { if (event.target === detail) detail.close(); });
  detail.addEventListener("close", () => {
    const back = open && !open.hidden ? open : opener;
    if (opener) {
      history.replaceState(null, "", location.pathname + location.search);
      if (back) back.querySelector("a").focus();
    }
    open = opener = null;
  });

  // Keys: in the grid the arrows move between pictures, in a picture between pictures and stages.
  function neighbour(card, key) {
    const i = shown.indexOf(card);
    if (key === "ArrowLeft" || key === "ArrowRight") return shown[i + (key === "ArrowRight" ? 1 : -1)];
    const top = shown[0].offsetTop;
    const columns = Math.max(1, shown.findIndex((each) => each.offsetTop !== top));
    return shown[i + (key === "ArrowDown" ? columns : -columns)];
  }
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const { key } = event, typing = document.activeElement === find;
    if (detail.open) {
      const moves = { ArrowLeft: () => step(-1), ArrowRight: () => step(1), c: copy, C: copy };
      const turn = (by) => choose((view + by + data.views.length) % data.views.length);
      Object.assign(moves, { ArrowUp: () => turn(-1), ArrowDown: () => turn(1) });
      if (moves[key]) { event.preventDefault(); moves[key](); }
      return;
    }
    if (typing) {
      if (key === "Escape") { find.value = ""; filter(); find.blur(); }
      if ((key === "Enter" || key === "ArrowDown") && shown.length) { event.preventDefault(); shown[0].querySelector("a").focus(); }
      return;
    }
    if (key === "/") { event.preventDefault(); scrollTo({ top: of("pictures").offsetTop - 60 }); find.focus(); find.select(); return; }
    if (key === "Escape" && shown.length < cards.length) {
      find.value = "";
      chips.forEach((chip) => chip.setAttribute("aria-pressed", "false"));
      filter();
      return;
    }
    const card = document.activeElement.closest(".card");
    if (key.startsWith("Arrow") && card && shown.length) {
      const next = neighbour(card, key);
      if (next) { event.preventDefault(); next.querySelector("a").focus(); }
    } else if (key === "ArrowRight" && shown.length && document.activeElement === document.body) {
      event.preventDefault();
      shown[0].querySelector("a").focus();
    }
  });

  view = -1;
  const asked = /^#p\d+$/.test(location.hash) && of(location.hash.slice(1));
  if (asked) show(asked);
})();
