"""The page in a real browser: load, unfold, select, search, keys, hostile texts, 10,000 nodes."""

import pytest

from graphwright.ir.record import NodeRecord, Rewrite
from graphwright.ir.snapshot import Snapshot
from graphwright.passes.misses import MissRecord
from graphwright.passes.sources import Sources
from graphwright.passes.trace import PassRecord, Trace

By = pytest.importorskip("selenium.webdriver.common.by").By
Wait = pytest.importorskip("selenium.webdriver.support.wait").WebDriverWait
Keys = pytest.importorskip("selenium.webdriver.common.keys").Keys


def css(page, selector):
    return page.find_elements(By.CSS_SELECTOR, selector)


def one(page, selector):
    return page.find_element(By.CSS_SELECTOR, selector)


def texts(page, selector):
    return [element.text for element in css(page, selector)]


def press(page, *keys):
    page.switch_to.active_element.send_keys(*keys)


def selected(page, side):
    found = texts(page, f"#tree-{side} .selected .name")
    return found[0].lstrip("%") if found else None


def linked(page, side):
    return [text.lstrip("%") for text in texts(page, f"#tree-{side} .linked .name")]


def graphs(page):
    one(page, "#tab-graphs").click()
    return page


def search(page, text, found):
    """Type into the search field and wait for the count."""
    one(page, "#search").send_keys(text)
    Wait(page, 5).until(lambda _: one(page, "#search-count").text == found)


def test_passes_are_listed_with_counts_and_numerics(show, trace):
    page = show(trace)
    names = texts(page, ".pass .name")
    assert names == ["All passes", "1 fuse", "2 widen"]
    facts = css(page, ".pass")[1].text
    assert "12 rewrites" in facts
    assert "\u221212 nodes" in facts
    assert "largest difference 1e-07" in facts
    assert "243" not in facts
    assert page.title == "Stack - Graphwright"
    assert "242 \u2192 230 nodes" in one(page, "#summary").text


def test_identical_layers_are_one_hunk_that_unfolds_to_its_sites(show, trace):
    page = show(trace)
    assert len(css(page, ".hunk")) == 1
    head = one(page, ".hunk-head")
    assert "\u00d712" in head.text
    assert "encoder.layer.{0..11}.attention" in head.text
    if head.get_attribute("aria-expanded") == "false":
        head.click()
    assert texts(page, ".line .name") == ["%scores_0", "%softmax_0", "%fused_0"]
    one(page, ".site-list > button").click()
    assert len(css(page, ".site")) == 12
    css(page, ".site")[4].click()
    assert "%softmax_4" in texts(page, ".line .name")
    assert "%fused_4" in texts(page, ".line .name")


def test_a_line_selects_its_node_in_both_graphs(show, trace):
    page = show(trace)
    one(page, ".line[data-name=softmax_0]").click()
    graphs(page)
    assert selected(page, "before") == "softmax_0"
    assert linked(page, "after") == ["fused_0"]


def test_selection_is_linked_by_name_and_by_provenance_both_ways(show, trace):
    page = graphs(show(trace))
    for side, name, other, expected in (
        ("before", "scores_3", "after", ["fused_3"]),
        ("after", "fused_3", "before", ["scores_3", "softmax_3"]),
        ("after", "linear_3", "before", ["linear_3"]),
    ):
        page.execute_script("document.querySelector('#search').value = ''")
        one(page, "#search").send_keys(f"%{name}", Keys.ENTER)
        rows = css(page, f"#tree-{side} .row")
        next(row for row in rows if f"%{name}" in row.text.split()).click()
        assert selected(page, side) == name
        assert linked(page, other) == expected


def test_inputs_and_users_are_marked_and_listed(show, trace):
    page = graphs(show(trace))
    one(page, "#unfold-all").click()
    one(page, "#search").send_keys("%softmax_0", Keys.ENTER)
    marks = {row.text.split()[1]: row.get_attribute("aria-label") for row in css(page, "#tree-before .near")}
    assert "input of the selection" in marks["%scores_0"]
    assert "user of the selection" in marks["%step_0_0"]
    details = one(page, "#details").text
    assert "Fuse of fuse" in details
    assert "encoder.layer.0.attention" in details
    assert [text.text for text in css(page, "#around [role=button] text:not(.sub)")] == ["scores_0", "step_0_0"]


def test_the_source_line_of_the_selection_is_shown(show, trace):
    page = show(trace)
    assert one(page, "#source .file").text == "package/model.py:7"
    assert one(page, "#source .here").text.endswith("return torch.softmax(scores, -1)")
    assert len(css(page, "#source li")) == 11


def test_search_counts_and_steps_through_the_matches(show, trace):
    page = show(trace)
    page.find_element(By.TAG_NAME, "body").send_keys("/")
    assert page.switch_to.active_element.get_attribute("id") == "search"
    search(page, "softmax layer.1", found="3 found")
    for position, name in enumerate(["softmax_1", "softmax_10", "softmax_11"], 1):
        press(page, Keys.ENTER)
        assert one(page, "#search-count").text == f"{position} of 3"
        assert selected(page, "before") == name
    press(page, Keys.SHIFT, Keys.ENTER)
    assert selected(page, "before") == "softmax_10"
    page.find_element(By.ID, "search").clear()
    search(page, "no such node", found="none")


def test_near_misses_point_at_the_part_that_failed(show, trace):
    page = show(trace)
    one(page, "#tab-misses").click()
    assert len(css(page, ".miss")) == 1
    miss = one(page, ".miss")
    assert "\u00d712" in miss.text
    assert "run canonicalize first" in miss.text
    pattern, carets = one(page, ".miss pre").text.splitlines()[:2]
    assert pattern[carets.index("^") : carets.rindex("^") + 1] == "softmax(x, -1)"
    miss.find_element(By.CSS_SELECTOR, ".at .link").click()
    assert one(page, "#details h2").text.startswith("%linear_0")


def test_the_trees_can_be_walked_with_the_keyboard(show, trace):
    page = graphs(show(trace))
    one(page, "#tree-before").send_keys(Keys.HOME)
    assert page.switch_to.active_element.get_attribute("id") == "tree-before"

    def active(side="before"):
        return page.find_element(By.ID, one(page, f"#tree-{side}").get_attribute("aria-activedescendant"))

    assert active().get_attribute("aria-level") == "1"
    press(page, Keys.ARROW_DOWN)
    module = active()
    assert module.get_attribute("role") == "treeitem"
    if module.get_attribute("aria-expanded") == "false":
        press(page, Keys.ARROW_RIGHT)
    assert active().get_attribute("aria-expanded") == "true"
    assert active().get_attribute("aria-selected") == "true"
    press(page, Keys.ARROW_RIGHT)
    assert active().get_attribute("aria-level") == "2"
    if active().get_attribute("aria-expanded") == "true":
        press(page, Keys.ARROW_LEFT)
    press(page, Keys.ARROW_LEFT)
    assert active().get_attribute("aria-level") == "1"
    press(page, Keys.ARROW_LEFT)
    assert active().get_attribute("aria-expanded") == "false"
    press(page, Keys.END)
    assert "output" in active().text
    assert active("after").text == active().text
    press(page, Keys.ENTER)
    assert page.switch_to.active_element.get_attribute("id") == "tree-after"


def test_tabs_follow_the_arrow_keys(show, trace):
    page = show(trace)
    one(page, "#tab-changes").send_keys(Keys.ARROW_RIGHT)
    assert one(page, "#tab-graphs").get_attribute("aria-selected") == "true"
    assert page.switch_to.active_element.get_attribute("id") == "tab-graphs"
    assert one(page, "#panel-graphs").is_displayed()
    assert not one(page, "#panel-changes").is_displayed()


def test_only_changes_hides_the_rest(show, trace):
    page = graphs(show(trace))
    one(page, "#only-changes").click()
    one(page, "#unfold-all").click()
    names = set(texts(page, "#tree-before .row:not(.module) .name"))
    assert {"%scores_0", "%softmax_0", "%step_0_0"} <= names
    assert "%linear_0" not in names


def test_the_theme_can_be_switched(show, trace):
    page = show(trace)
    colours = []
    for _ in range(2):
        one(page, "#theme").click()
        colours.append(page.execute_script("return getComputedStyle(document.body).backgroundColor"))
    assert colours[0] != colours[1]


CONTRASTS = """
const luminance = (text) => {
  const linear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  const [r, g, b] = text.match(/[\\d.]+/g).map((v) => linear(v / 255));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const background = (element) => {
  for (let at = element; at; at = at.parentElement) {
    const colour = getComputedStyle(at).backgroundColor;
    if (!/, 0\\)$/.test(colour)) return colour;
  }
};
const found = [];
for (const element of document.querySelectorAll("body *:not(script):not(svg *)")) {
  const hasText = [...element.childNodes].some((child) => child.nodeType === 3 && child.data.trim());
  if (!hasText || !element.checkVisibility()) continue;
  const [a, b] = [luminance(getComputedStyle(element).color), luminance(background(element))].sort((x, y) => y - x);
  const ratio = (a + 0.05) / (b + 0.05);
  if (ratio < 4.5) found.push(`${element.className} ${element.textContent.slice(0, 20)} ${ratio.toFixed(2)}`);
}
return found;
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("tab", ["changes", "graphs", "misses"])
def test_all_text_has_contrast(show, trace, scheme, tab):
    page = show(trace)
    page.execute_script("document.documentElement.setAttribute('data-theme', arguments[0])", scheme)
    one(page, f"#tab-{tab}").click()
    assert page.execute_script(CONTRASTS) == []


EVIL = '</script><img src=x onerror="window.broken=1"><!--\u2028\'`${window.broken=1}%'


def test_names_and_sources_are_never_markup(show):
    bad = NodeRecord(EVIL, "call_function", f"{EVIL}.default", (("str", EVIL),), (), EVIL, f"{EVIL}.__proto__", EVIL)
    end = NodeRecord("output", "output", "output", (("tuple", EVIL),), (), "", "", "")
    before, after = Snapshot(EVIL, (bad, end)), Snapshot(EVIL, (end,))
    rewrite = Rewrite(EVIL, EVIL, EVIL, EVIL, (bad,), (), ((EVIL, "1"),))
    miss = MissRecord(EVIL, EVIL, EVIL, EVIL, EVIL, EVIL, "__proto__", 1, EVIL, EVIL, (3, 9))
    sources = Sources([EVIL], [{1: EVIL}], {EVIL: (0, 1)})
    page = show(Trace([PassRecord(EVIL, (rewrite,), before, after, 0.0, (miss,))], sources))
    assert one(page, "#title").text.startswith("</script><img")
    for tab in ("graphs", "misses", "changes"):
        one(page, f"#tab-{tab}").click()
    assert page.execute_script("return window.broken ?? null") is None
    assert not css(page, "img")
    assert "onerror" in one(page, "#source .here").text


def test_an_empty_trace_has_a_page(show):
    page = show(Trace([]))
    assert "changed nothing" in one(page, "#panel-changes").text


SCROLL = """
const done = arguments[0], scroller = document.getElementById("scroller"), times = [];
let last = performance.now(), step = 0, most = 0;
requestAnimationFrame(function frame(now) {
  times.push(now - last);
  last = now;
  scroller.scrollTop += 700;
  most = Math.max(most, document.querySelectorAll(".row").length);
  if (++step < 60) requestAnimationFrame(frame);
  else done({ median: times.sort((a, b) => a - b)[30], most, top: scroller.scrollTop });
});
"""


def test_ten_thousand_nodes_exist_only_where_they_are_visible(show, stack):
    page = show(stack(500))
    assert "10,002 nodes" in page.execute_script("return document.querySelector('#head-before').textContent")
    print("first view after", page.execute_script("return window.graphwrightReady"), "ms")
    graphs(page)
    one(page, "#unfold-all").click()
    measured = page.execute_async_script(SCROLL)
    print("median frame while scrolling", measured["median"], "ms")
    assert measured["top"] > 40_000
    assert measured["most"] < 250
    one(page, "#tree-before").send_keys(Keys.END)
    assert "output" in one(page, "#tree-before .active").text
    search(page, "softmax_499", found="1 found")
    one(page, "#search").send_keys(Keys.ENTER)
    assert selected(page, "before") == "softmax_499"
    assert linked(page, "after") == ["fused_499"]
