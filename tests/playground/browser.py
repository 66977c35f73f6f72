"""A headless Chromium, driven through chromedriver's HTTP interface (W3C WebDriver)."""

import base64
import json
import shutil
import socket
import subprocess
import time
import urllib.request

_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
"""Key of an element's identifier in WebDriver (section 12)."""

_FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--window-size=1300,1900",
]  # fmt: skip


def missing_program():
    """Return the program that is not installed, or None."""
    return next((name for name in ("chromium", "chromedriver") if shutil.which(name) is None), None)


class Browser:
    """One window with an empty profile. Use it as a context manager."""

    def __init__(self, profile):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"http://127.0.0.1:{free.getsockname()[1]}"
        port = self.address.rpartition(":")[2]
        self.driver = subprocess.Popen(["chromedriver", f"--port={port}"], stdout=subprocess.DEVNULL)
        self.session = ""
        options = {"args": [*_FLAGS, f"--user-data-dir={profile}"]}
        capabilities = {"alwaysMatch": {"browserName": "chrome", "goog:chromeOptions": options}}
        try:
            self.wait(lambda: self._send("GET", "/status")["ready"], 30)
            session = self._send("POST", "/session", {"capabilities": capabilities})["sessionId"]
            self.session = f"/session/{session}"
        except BaseException:
            self.driver.kill()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        try:
            self._send("DELETE", self.session)
        finally:
            self.driver.terminate()
            self.driver.wait()

    def open(self, url):
        self._send("POST", f"{self.session}/url", {"url": url})

    def upload(self, selector, file):
        """Choose a file in the <input type="file"> with this selector, when it exists."""
        element = self.wait(lambda: self._find(selector))
        self._send("POST", f"{self.session}/element/{element}/value", {"text": str(file)})

    def evaluate(self, script):
        """Return the value of a JavaScript expression."""
        body = {"script": f"return {script}", "args": []}
        return self._send("POST", f"{self.session}/execute/sync", body)

    def enter(self, selector, value):
        """Type a number into an <input>, as a person does: the page gets the events."""
        self.evaluate(
            f"""((box) => {{
                Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, 'value').set.call(box, '{value}');
                for (const name of ['input', 'change', 'blur']) box.dispatchEvent(new Event(name, {{bubbles: true}}));
            }})(document.querySelector('{selector}'))"""
        )

    def screenshot(self, file):
        file.write_bytes(base64.b64decode(self._send("GET", f"{self.session}/screenshot")))

    @staticmethod
    def wait(condition, seconds=60):
        """Return the first true value of a condition."""
        end = time.monotonic() + seconds
        while True:
            try:
                if value := condition():
                    return value
            except OSError:
                pass
            assert time.monotonic() < end, "the page does not react"
            time.sleep(0.1)

    def _find(self, selector):
        body = {"using": "css selector", "value": selector}
        found = self._send("POST", f"{self.session}/elements", body)
        return found[0][_ELEMENT] if found else None

    def _send(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.address + path, data, {"Content-Type": "application/json"}, method=method)
        with urllib.request.urlopen(request, timeout=90) as answer:
            return json.load(answer)["value"]
