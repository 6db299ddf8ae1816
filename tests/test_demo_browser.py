"""The web demo in a real browser: Chromium without a window, where it and its driver are installed."""

import shutil
from importlib.util import find_spec

import numpy as np
import pytest


if find_spec("gradio") is None:
    pytest.skip("needs pip install 'elm-hf[demo]'", allow_module_level=True)
webdriver = pytest.importorskip("selenium.webdriver")

from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

from elm_hf.ecg.simulated_findings import draw_findings  # noqa: E402
from elm_hf.ecg.simulation import simulate_ecg  # noqa: E402
from elm_hf.serving.demo import launch_demo  # noqa: E402


# Without a network, Chromium would look up hosts of its own again and again.
OPTIONS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --window-size=1400,2400"
)
WAIT_S = 120


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("no browser: chromium and chromedriver are not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for option in [*OPTIONS.split(), f"--user-data-dir={tmp_path_factory.mktemp('browser')}"]:
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with webdriver.Chrome(options=options, service=Service(driver)) as opened:
        yield opened


@pytest.fixture(scope="module")
def page(speaking_elm):
    started = launch_demo(str(speaking_elm), questions=["What is the rhythm?"], max_new_tokens=6, wait=False)
    yield started.local_url
    started.close()


@pytest.mark.timeout(900)
def test_a_visit(browser, page, tmp_path):
    wait = WebDriverWait(browser, WAIT_S)

    def found(selector: str) -> list:
        return browser.find_elements(By.CSS_SELECTOR, selector)

    def wait_for_text(selector: str, text: str) -> str:
        wait.until(lambda _: any(text in one.text for one in found(selector)), f"{text!r} in {selector}")
        return found(selector)[0].text

    def upload(name: str, content: bytes) -> None:
        (tmp_path / name).write_bytes(content)
        wait.until(lambda _: found("#upload input[type=file]"))[0].send_keys(str(tmp_path / name))

    browser.get(page)
    wait.until(lambda _: found("#ask"))
    wait_for_text("#about", "Upload an ECG")

    upload("notes.txt", b"hello")
    wait_for_text("#about", "notes.txt: not an ECG file")
    assert not found("#paper img")
    upload("large.bin", bytes(21_000_000))
    wait_for_text(".toast-body", "maximum")

    findings = draw_findings(np.random.default_rng(3))
    ecg = simulate_ecg(findings, np.random.default_rng(3), 2.0)
    rows = "\n".join(",".join(map(str, [row / 250, *ecg[[0, 1, 6], row]])) for row in range(500))
    upload("three.csv", f"Time (s),I (mV),II (mV),V1 (mV)\n{rows}\n".encode())
    assert "missing leads: III" in wait_for_text("#about", "Opened three.csv")
    wait_for_text("#measured", "heart rate")
    (paper,) = found("#paper img")
    assert browser.execute_script("return arguments[0].naturalWidth", paper) > 500

    width = paper.size["width"]
    browser.execute_script("document.querySelector('#zoom input[type=number]').scrollIntoView()")
    number = found("#zoom input[type=number]")[0]
    number.clear()
    number.send_keys("200\t")
    wait.until(lambda _: found("#paper img")[0].size["width"] > 1.5 * width)

    browser.find_element(By.XPATH, "//button[contains(., 'What is the rhythm?')]").click()
    wait.until(lambda _: found("#blind .bot") and found("#said .bot"))
    found("#question textarea")[0].send_keys("And the rate?")
    found("#ask")[0].click()
    wait.until(lambda _: len(found("#blind .user")) == 2 and not found("#status")[0].text)

    wait.until(lambda _: found("#said button[aria-label=Dislike]"))[-1].click()
    wait_for_text("#status", "Rated as bad")
    found("#ratings button")[0].click()
    wait.until(lambda _: found("#better textarea") and found("#better textarea")[0].is_displayed())
    found("#better textarea")[0].send_keys("80 per minute")
    found("#save")[0].click()
    wait_for_text("#status", "Saved the better answer")
    found("#export")[0].click()
    wait_for_text("#exported", "ratings")
    found("#explain")[0].click()
    wait.until(lambda _: found("#explanation img"))
    errors = [one["message"] for one in browser.get_log("browser") if one["level"] == "SEVERE"]
    assert "upload" in errors.pop(0)  # the one that was too large
    assert [error for error in errors if not error.endswith(" Response")] == []
