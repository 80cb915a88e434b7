// Tabs, as the WAI-ARIA pattern has them: one is reached by Tab, the others by arrow keys, Home and End. The address
// after # names the open one, so that links, bookmarks and the browser's back button work.

/** @param {HTMLElement} root holds [role=tablist] with tabs of id "tab-NAME", and panels of id "panel-NAME" */
export function startTabs(root) {
  const tabs = [...root.querySelectorAll('[role="tab"]')];
  const nameOf = (tab) => tab.id.replace("tab-", "");

  const open = (name) => {
    const chosen = tabs.find((tab) => nameOf(tab) === name) ?? tabs[0];
    for (const tab of tabs) {
      const isChosen = tab === chosen;
      tab.setAttribute("aria-selected", String(isChosen));
      tab.tabIndex = isChosen ? 0 : -1;
      root.querySelector(`#panel-${nameOf(tab)}`).hidden = !isChosen;
    }
    return chosen;
  };

  const goTo = (name) => {
    if (location.hash !== `#${name}`) location.hash = name;
    return open(name);
  };

  root.addEventListener("click", (event) => {
    const tab = event.target.closest('[role="tab"]');
    const link = event.target.closest('a[href^="#"]');
    if (tab) goTo(nameOf(tab));
    if (!link) return;
    event.preventDefault(); // the page's <base> would load it anew
    goTo(link.getAttribute("href").slice(1)).focus();
    root.querySelector('[role="tablist"]').scrollIntoView({ block: "start" });
  });
  root.querySelector('[role="tablist"]').addEventListener("keydown", (event) => {
    const here = tabs.indexOf(document.activeElement);
    const to = { ArrowRight: here + 1, ArrowLeft: here - 1, Home: 0, End: tabs.length - 1 }[event.key];
    if (to === undefined || here < 0) return;
    event.preventDefault();
    goTo(nameOf(tabs.at(to % tabs.length))).focus();
  });
  addEventListener("hashchange", () => open(location.hash.slice(1)));
  open(location.hash.slice(1));
}
