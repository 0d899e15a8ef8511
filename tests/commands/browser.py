# SPDX-License-Identifier: MIT
"""A headless Chromium, spoken to by its devtools protocol over a pair of pipes: pages at a width and
in a colour scheme, what a script says of them, and pictures of them."""

import base64
import json
import os
import select
import shutil
import signal
import subprocess
import time

SECONDS = 120  # for an answer, on a slow machine
MISSING = 'chromium is not installed; ./dev browser does it'


def chromium():
    """Its path, or None. The shell is the same browser without windows."""
    names = 'chromium', 'chromium-headless-shell'
    return next(filter(None, (shutil.which(name, path='/usr/bin:/usr/local/bin') for name in names)), None)


class Browser:
    def __init__(self, folder, *options):
        """folder: for its profiles; it is not to find one of the user's. A start that fails is tried once
        more, since that is not what anybody tests here."""
        try:
            self._start(folder / 'first', options)
        except (RuntimeError, OSError):
            self.close()
            self._start(folder / 'second', options)

    def _start(self, folder, options):
        folder.mkdir()
        to_read, self._write = os.pipe()
        self._read, to_write = os.pipe()
        # The protocol is on descriptors 3 and 4.
        self._process = subprocess.Popen(
            ['/bin/bash', '-c', f'exec "$@" 3<&{to_read} 4>&{to_write}', 'bash', chromium(), '--headless',
             '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--hide-scrollbars',
             '--no-first-run', f'--user-data-dir={folder}', '--remote-debugging-pipe', *options,
             'about:blank'],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            pass_fds=(to_read, to_write), env={**os.environ, 'HOME': str(folder)},
            start_new_session=True)
        os.close(to_read)
        os.close(to_write)
        self._left, self._number, self._session = b'', 0, None
        target = self.ask('Target.createTarget', url='about:blank')['targetId']
        self._session = self.ask('Target.attachToTarget', targetId=target, flatten=True)['sessionId']
        self.ask('Page.enable')

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        # All of its group: the command can be a shell that waits for the browser.
        os.killpg(self._process.pid, signal.SIGTERM)
        try:
            self._process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        os.close(self._read)
        os.close(self._write)

    def _message(self):
        deadline = time.monotonic() + SECONDS
        while b'\0' not in self._left:
            ready = select.select([self._read], [], [], max(deadline - time.monotonic(), 0))[0]
            data = os.read(self._read, 1 << 20) if ready else b''
            if not data:
                raise RuntimeError('the browser does not answer')
            self._left += data
        text, self._left = self._left.split(b'\0', 1)
        return json.loads(text)

    def ask(self, method, **parameters):
        self._number += 1
        message = {'id': self._number, 'method': method, 'params': parameters}
        if self._session:
            message['sessionId'] = self._session
        data = json.dumps(message).encode() + b'\0'
        while data:
            data = data[os.write(self._write, data):]
        while True:
            answer = self._message()
            if answer.get('id') == self._number:
                if 'error' in answer:
                    raise RuntimeError(f'{method}: {answer["error"]}')
                return answer['result']

    def open(self, page, width, height, dark=False):
        self.ask('Emulation.setDeviceMetricsOverride', width=width, height=height, deviceScaleFactor=1,
                 mobile=False)
        self.ask('Emulation.setEmulatedMedia', features=[
            {'name': 'prefers-color-scheme', 'value': 'dark' if dark else 'light'}])
        self.ask('Page.navigate', url=page.as_uri())
        deadline = time.monotonic() + SECONDS
        while self.value('document.readyState + location.href') != 'complete' + page.as_uri():
            assert time.monotonic() < deadline, f'{page} does not load'
            time.sleep(0.02)

    def value(self, script):
        """What an expression is in the page; of a promise, what it comes to."""
        found = self.ask('Runtime.evaluate', expression=script, returnByValue=True, awaitPromise=True)
        if 'exceptionDetails' in found:
            raise RuntimeError(f'{script[:200]}: {found["exceptionDetails"]}')
        return found['result'].get('value')

    def picture(self, path, whole=False):
        shot = self.ask('Page.captureScreenshot', format='png', captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot['data']))
