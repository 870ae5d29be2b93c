for (const button of document.querySelectorAll(".wide thead button")) button.addEventListener("click", () => {
  const head = button.closest("th"), body = head.closest("table").tBodies[0];
  const up = head.getAttribute("aria-sort") !== "ascending";
  for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", up ? "ascending" : "descending");
  const key = (row) => row.cells[head.cellIndex].dataset.key;
  const order = (a, b) => {
    if (!a || !b) return (a ? 0 : 1) - (b ? 0 : 1);  // what is missing comes last
    return (up ? 1 : -1) * (isNaN(a) || isNaN(b) ? a.localeCompare(b) : a - b);
  };
  body.append(...Array.from(body.rows).sort((a, b) => order(key(a), key(b))));
});
const hints = () => {
  for (const wide of document.querySelectorAll(".wide"))
    wide.nextElementSibling.hidden = wide.scrollWidth <= wide.clientWidth;
};
addEventListener("resize", hints);
hints();
