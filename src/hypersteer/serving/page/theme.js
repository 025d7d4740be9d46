// Before anything is drawn, so that no light page flashes up in a dark room.
(() => {
  const kept = localStorage.getItem("hypersteer-theme");
  if (kept === "dark" || kept === "light") document.documentElement.dataset.theme = kept;
})();
