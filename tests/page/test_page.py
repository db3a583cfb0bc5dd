"""The page in a real browser: by clicking, by keyboard, on narrow screens, in the dark, and by axe-core."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.expected_conditions import staleness_of
from selenium.webdriver.support.ui import WebDriverWait

from agent.kube.model import Namespace, NetworkPolicy, Object, Pod, Rule
from agent.observe.listener import STREAMS_AT_ONCE
from tests.build import packed
from tests.lab.axe import axe_script
from tests.page.stage import HOSTILE, Stage, flow, many, shop

PAGES = (
    "/",
    "/pods",
    "/pod?name=shop/db",
    "/pod?name=shop/nobody",
    "/policies",
    "/policy?name=shop/api-to-db",
    "/policy?name=shop/api-out",
    "/denied",
    "/changes",
    "/changes?since=never",
    "/ask",
    "/ask?from=shop/web&to=shop/db&port=5432",
    "/ask?from=shop/web&to=shop/nobody&port=5432",
    "/grid",
    "/grid?pod=shop/web+shop/api+shop/db&port=5432",
    "/health",
)
WIDE, NARROW = (1280, 900), (390, 844)
_RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]

pytestmark = pytest.mark.xdist_group("page")


def missing(what: str) -> None:
    if os.environ.get("CI"):
        pytest.fail(f"needs {what}")
    pytest.skip(f"needs {what}: .ci/packages python3 page")


@pytest.fixture(scope="module")
def browser() -> Iterator[webdriver.Chrome]:
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        missing("chromium and chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = str(chromium)
    # Root, which the other tests are, gets no sandbox; what is shown is the test's own.
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    made = webdriver.Chrome(options, webdriver.ChromeService(str(driver)))
    made.set_script_timeout(120)
    yield made
    made.quit()


@pytest.fixture(scope="module")
def axe() -> str:
    if shutil.which("npm") is None:
        missing("npm, which fetches axe-core")
    return axe_script()


Play = Callable[..., Stage]


@pytest.fixture
def play(browser: webdriver.Chrome) -> Iterator[Play]:
    stages: list[Stage] = []

    def play(objects: list[Object] | None = None, **more: Any) -> Stage:
        # What an earlier test's page had to say later is not this one's.
        complaints(browser)
        stages.append(Stage(shop() if objects is None else objects, **more))
        look(browser, WIDE, dark=False)
        return stages[-1]

    yield play
    browser.get("about:blank")
    for stage in stages:
        stage.close()


def look(browser: webdriver.Chrome, size: tuple[int, int], *, dark: bool) -> None:
    """Give the screen a size and a scheme of colours."""
    metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": size == NARROW}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})


def complaints(browser: webdriver.Chrome) -> list[str]:
    """Return what the browser has to say, but for answers that are meant to be 4xx."""
    logged = browser.get_log("browser")  # type: ignore[no-untyped-call]
    return [str(one["message"]) for one in logged if "status of 40" not in one["message"]]


def wait(browser: webdriver.Chrome, condition: Callable[[], object]) -> None:
    WebDriverWait(browser, 30).until(lambda _: condition())


def main_text(browser: webdriver.Chrome) -> str:
    return str(browser.find_element(By.TAG_NAME, "main").text)


def follow(browser: webdriver.Chrome, link: WebElement) -> None:
    """Click what leads to another page, and wait until the browser has left this one."""
    before = browser.find_element(By.TAG_NAME, "html")
    link.click()
    wait(browser, lambda: staleness_of(before)(browser))


def click(browser: webdriver.Chrome, text: str) -> None:
    follow(browser, browser.find_element(By.LINK_TEXT, text))


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("size", [WIDE, NARROW], ids=["wide", "narrow"])
def test_every_page_can_be_used_by_everyone(
    browser: webdriver.Chrome, axe: str, play: Play, size: tuple[int, int], dark: bool
) -> None:
    stage = play()
    stage.flows.put(flow(1))
    look(browser, size, dark=dark)
    wrong = {}
    for page in PAGES:
        browser.get(stage.url + page)
        wide = browser.execute_script("return document.documentElement.scrollWidth")
        assert wide <= size[0], f"{page} is wider than the screen"
        assert complaints(browser) == [], page
        browser.execute_cdp_cmd("Runtime.evaluate", {"expression": axe})
        asked = {"runOnly": {"type": "tag", "values": _RULES}}
        found = browser.execute_async_script(
            "axe.run(document, arguments[0]).then(arguments[1], error => arguments[1](String(error)))", asked
        )
        assert isinstance(found, dict), found
        assert len(found["passes"]) > 10
        for one in found["violations"]:
            wrong[page, one["id"]] = (one["help"], [node["html"][:200] for node in one["nodes"][:3]])
    assert wrong == {}


def test_from_the_overview_to_the_rule_by_clicking(browser: webdriver.Chrome, play: Play) -> None:
    stage = play()
    stage.flows.put(flow(1))
    browser.get(stage.url)
    assert "Node here" in main_text(browser)
    assert "IPv6 forwarding is off" in main_text(browser)
    assert "+ingress[0] from pods[app=api] port 5432/TCP" in main_text(browser)
    click(browser, "nearest: rule 0 of shop/api-to-db")
    assert browser.current_url == f"{stage.url}/policy?name=shop/api-to-db#ingress-0"
    rule = browser.find_element(By.CSS_SELECTOR, "#ingress-0")
    assert "from pods[app=api] port 5432/TCP" in rule.text
    assert "packets allowed" in rule.text
    rule.find_element(By.TAG_NAME, "summary").click()
    assert "KUBE-NWPLCY-4 -g KUBE-NETPOL-ALLOW" in rule.text
    browser.refresh()
    assert "last seen to grow" in browser.find_element(By.CSS_SELECTOR, "#ingress-0").text
    click(browser, "shop/db")
    assert "Pod shop/db" in main_text(browser)
    assert "Open: no policy isolates it." in main_text(browser)
    click(browser, "Policies")
    click(browser, "shop/api-out")
    assert len(browser.find_elements(By.CSS_SELECTOR, "section.rule")) == 2
    assert "not in the kernel" in browser.find_element(By.CSS_SELECTOR, "#egress-1").text
    for name in ("Pods", "Denied", "History", "Explain", "Who reaches whom", "Health", "Overview"):
        click(browser, name)
        current = browser.find_element(By.CSS_SELECTOR, "nav a[aria-current]")
        assert current.text == name
    assert complaints(browser) == []


def test_denied_connections_arrive_live(browser: webdriver.Chrome, play: Play) -> None:
    stage = play()
    stage.flows.put(flow(1))
    browser.get(f"{stage.url}/denied")
    wait(browser, lambda: "Live" in browser.find_element(By.ID, "live").text)
    assert len(rows(browser)) == 1
    stage.flows.put(flow(2, "shop/api", why="no rule allows shop/api"))
    wait(browser, lambda: len(rows(browser)) == 2)
    first, second = rows(browser)
    assert "no rule allows shop/api" in first.text
    assert [cell.text for cell in first.find_elements(By.TAG_NAME, "td")][1:5] == [
        cell.text.replace("shop/web", "shop/api") for cell in second.find_elements(By.TAG_NAME, "td")
    ][1:5]
    follow(browser, first.find_element(By.LINK_TEXT, "explain"))
    assert "shop/api to shop/db, 5432/tcp: allowed" in main_text(browser)
    browser.back()
    wait(browser, lambda: len(rows(browser)) == 2)
    browser.get(f"{stage.url}/denied?pod=shop/web")
    wait(browser, lambda: "Live" in browser.find_element(By.ID, "live").text)
    assert len(rows(browser)) == 1
    stage.flows.put(flow(3, "shop/api"))
    stage.flows.put(flow(4, "shop/web"))
    wait(browser, lambda: len(rows(browser)) == 2)
    assert "shop/web" in rows(browser)[0].text
    assert complaints(browser) == []


def test_that_nothing_comes_is_told(browser: webdriver.Chrome, play: Play) -> None:
    stage = play()
    followers = [stage.follow() for _ in range(STREAMS_AT_ONCE)]
    browser.get(f"{stage.url}/denied")
    wait(browser, lambda: "too many follow already" in browser.find_element(By.ID, "live").text)
    for one in followers:
        one.close()
    wait(browser, lambda: any("503" in one for one in complaints(browser)))


def rows(browser: webdriver.Chrome) -> list[WebElement]:
    return browser.find_elements(By.CSS_SELECTOR, "#denied tr")


def test_a_question_is_in_the_address(browser: webdriver.Chrome, play: Play) -> None:
    stage = play()
    browser.get(f"{stage.url}/ask")
    for name, text in (("from", "shop/web"), ("to", "shop/db"), ("port", "5432")):
        browser.find_element(By.ID, name).send_keys(text)
    browser.find_element(By.ID, "port").send_keys(Keys.ENTER)
    wait(browser, lambda: "from=" in browser.current_url)
    assert browser.current_url.endswith("/ask?from=shop%2Fweb&to=shop%2Fdb&port=5432")
    text = main_text(browser)
    assert "shop/web to shop/db, 5432: denied" in text
    assert "not by rule 0 of shop/api-to-db: peer (shop/web does not match app=api: it has app=web)" in text
    assert "in the kernel" in text
    assert browser.find_element(By.ID, "to").get_attribute("value") == "shop/db"
    click(browser, "rule 0 of shop/api-to-db")
    assert browser.current_url.endswith("#ingress-0")


def test_who_reaches_whom(browser: webdriver.Chrome, play: Play) -> None:
    stage = play()
    browser.get(f"{stage.url}/grid")
    browser.find_element(By.ID, "pod").send_keys("shop/web, shop/api\nshop/db")
    browser.find_element(By.ID, "port").send_keys("5432")
    browser.find_element(By.TAG_NAME, "button").click()
    wait(browser, lambda: browser.find_elements(By.CSS_SELECTOR, "tbody tr"))
    cells = [
        [cell.text for cell in row.find_elements(By.TAG_NAME, "td")]
        for row in browser.find_elements(By.CSS_SELECTOR, "tbody tr")
    ]
    assert cells == [
        ["itself", "allowed", "denied"],
        ["allowed", "itself", "allowed"],
        ["allowed", "allowed", "itself"],
    ]
    follow(browser, browser.find_elements(By.CSS_SELECTOR, "a.tag.bad")[0])
    assert "shop/web to shop/db, 5432: denied" in main_text(browser)


def test_long_tables_have_parts_and_can_be_searched(browser: webdriver.Chrome, play: Play) -> None:
    stage = play(many())
    browser.get(f"{stage.url}/policies")
    assert "1000 policies: those that select a pod of this node" in main_text(browser)
    assert len(browser.find_elements(By.CSS_SELECTOR, "tbody tr")) == 50
    click(browser, "Next")
    assert "Page 2 of 20" in main_text(browser)
    assert "shop-0/policy-0200" in main_text(browser)
    browser.find_element(By.ID, "q").send_keys("policy-0999", Keys.ENTER)
    wait(browser, lambda: "q=policy-0999" in browser.current_url)
    click(browser, "shop-3/policy-0999")
    assert "Policy shop-3/policy-0999" in main_text(browser)
    browser.get(f"{stage.url}/pods?page=5")
    assert "250 pods" in main_text(browser)
    assert "Page 5 of 5" in main_text(browser)
    assert "and 20 more" in main_text(browser)


def test_names_of_tenants_are_text_and_nothing_else(browser: webdriver.Chrome, play: Play) -> None:
    key = ("shop", HOSTILE)
    objects: list[Object] = [
        Namespace("shop", {HOSTILE: HOSTILE}),
        Pod(*key, labels={"app": HOSTILE}, node="here", addresses=(packed("10.0.0.9"),)),
        NetworkPolicy(*key, ingress=(Rule(),)),
    ]
    stage = play(objects, who=HOSTILE)
    stage.faults = (*stage.faults, *(fault_of(HOSTILE),))
    stage.flows.put(flow(1, f"shop/{HOSTILE}", why=HOSTILE))
    for page in ("/", "/pods", "/policies", "/denied", "/changes", "/health", "/grid"):
        browser.get(stage.url + page)
        assert browser.execute_script("return window.hacked") is None, page
        assert browser.find_elements(By.CSS_SELECTOR, "main img, main script") == []
        assert complaints(browser) == [], page
    browser.get(f"{stage.url}/denied")
    wait(browser, lambda: "Live" in browser.find_element(By.ID, "live").text)
    stage.flows.put(flow(2, f"shop/{HOSTILE}", why=HOSTILE))
    wait(browser, lambda: len(rows(browser)) == 2)
    assert rows(browser)[0].text.count(HOSTILE) == 2
    browser.get(f"{stage.url}/policies")
    click(browser, f"shop/{HOSTILE}")
    assert f"Policy shop/{HOSTILE}" in main_text(browser)
    for path in (
        "/pod?name=",
        "/policy?name=",
        "/pods?q=",
        "/denied?pod=",
        "/changes?pod=",
        "/ask?port=1&to=x&from=",
    ):
        browser.get(stage.url + path + HOSTILE.replace(" ", "+"))
        assert browser.find_elements(By.CSS_SELECTOR, "main img, main script") == []
        assert browser.execute_script("return window.hacked") is None, path
    assert complaints(browser) == []


def fault_of(text: str) -> Any:
    from agent.fault import Fault

    return Fault(text, text)


def test_by_keyboard_alone(browser: webdriver.Chrome, play: Play) -> None:
    stage = play()
    browser.get(f"{stage.url}/pods")
    keys = webdriver.ActionChains(browser)
    keys.send_keys(Keys.TAB).perform()
    assert browser.switch_to.active_element.text == "Skip to the content"
    keys.send_keys(Keys.ENTER).perform()
    wait(browser, lambda: browser.execute_script("return document.activeElement.id") == "main")
    keys.send_keys(Keys.TAB).send_keys("db").send_keys(Keys.ENTER).perform()
    wait(browser, lambda: "q=db" in browser.current_url)
    assert "1 pods" in main_text(browser)


def test_nothing_comes_from_elsewhere_and_no_other_script_runs(browser: webdriver.Chrome, play: Play) -> None:
    stage = play()
    browser.get(f"{stage.url}/denied")
    loaded = browser.execute_script("return performance.getEntriesByType('resource').map(one => one.name)")
    assert all(name.startswith(stage.url) for name in loaded)
    script = "const s = document.createElement('script'); s.textContent = 'window.hacked = 1';"
    browser.execute_script(f"{script} document.body.append(s)")
    assert browser.execute_script("return window.hacked") is None
    wait(browser, lambda: any("Content Security Policy" in one for one in complaints(browser)))
