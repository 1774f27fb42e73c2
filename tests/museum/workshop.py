# SPDX-License-Identifier: MIT
"""
workshop.py: a build of its own in which the sources can be damaged and the tests asked whether they notice.

The sources are copied; the tree that the copy was made of is never touched. The build is configured once, without optimization, so
that a change of one file costs a second or two; it is kept in its directory, and the next run builds only what has changed since.
One run at a time has it.
"""
import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COPIED = [".ci", "include", "src", "tests", "meson.build", "meson_options.txt"]
OPTIONS = ["-Dbuildtype=plain", "-Dwarning_level=0", "-Dwerror=false", "-Dallocator=libc", "-Dtests=true", "-Dstress=false",
           "-Ddocs=false", "-Dc_args=-DFIXTURE_PATIENCE_MS=5000"]
FAILED = re.compile(r"^failed: \S+: (\w+): (.*)$", re.MULTILINE)
COUNTS = re.compile(r"^(\d+) passed, (\d+) failed(?:, \d+ skipped)?$", re.MULTILINE)


class Broken(Exception):
    """It cannot be built; the text says why."""


def copy_changed(source, target):
    """As cp -u, but what is the same keeps its time, and what is gone goes."""
    if source.is_dir():
        target.mkdir(parents=True, exist_ok=True)
        there = {entry.name for entry in source.iterdir() if entry.name != "__pycache__"}
        for entry in target.iterdir():
            if entry.name not in there:
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        for name in there:
            copy_changed(source / name, target / name)
    elif not target.exists() or target.read_bytes() != source.read_bytes():
        shutil.copy(source, target)


class Workshop:
    def __init__(self, directory):
        self.directory = Path(directory).resolve()
        self.tree, self.build = self.directory / "tree", self.directory / "build"
        self.directory.mkdir(parents=True, exist_ok=True)
        self.lock = open(self.directory / "lock", "w")
        fcntl.flock(self.lock, fcntl.LOCK_EX)
        for name in COPIED:
            copy_changed(ROOT / name, self.tree / name)
        if not (self.build / "build.ninja").exists():
            self.call(["meson", "setup", *OPTIONS, self.build, self.tree])
        self.call(["ninja", "-C", self.build, "build.ninja"])
        targets = json.loads((self.build / "meson-info/intro-targets.json").read_text())
        self.programs = {target["name"]: target["filename"][0] for target in targets if target["type"] == "executable"}

    @staticmethod
    def call(command):
        done = subprocess.run(list(map(str, command)), stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if done.returncode != 0:
            raise Broken((done.stdout + done.stderr).strip())

    def make(self, programs):
        """Build these test programs."""
        unknown = [name for name in programs if name not in self.programs]
        if unknown:
            raise Broken(f"there is no test program {', '.join(unknown)}")
        self.call(["ninja", "-C", self.build, *(os.path.relpath(self.programs[name], self.build) for name in programs)])

    @contextmanager
    def changed(self, texts):
        """For the time of a `with`, these files of the copy have other texts: {"src/...": text}."""
        before = {path: (self.tree / path).read_text() for path in texts}
        try:
            for path, text in texts.items():
                (self.tree / path).write_text(text)
            yield
        finally:
            for path, text in before.items():
                (self.tree / path).write_text(text)

    def text(self, path):
        return (self.tree / path).read_text()

    def take(self, programs):
        """Copies of them as they are now, which can be run while the next are built: a directory, to be removed by the caller."""
        own = Path(tempfile.mkdtemp(dir=self.directory))
        for name in programs:
            shutil.copy(self.programs[name], own / name)
        return own

    def run(self, program, pattern, seconds, *options):
        """
        Run the tests of a program, a path, that match Criterion's pattern. Returns (how many passed, {test: why it failed}); a
        run that had to be ended fails "*".
        """
        surroundings = {name: value for name, value in os.environ.items() if name not in ("BELFRY_REPORT_DIR", "CRITERION_JOBS")}
        command = [self.tree / "tests/support/run-test", "--name", program.name, program, "--filter", pattern, *options]
        # Its output goes to a file: whoever outlives it must not hold a pipe of ours.
        with tempfile.TemporaryFile("w+", errors="replace") as output:
            running = subprocess.Popen(list(map(str, command)), stdin=subprocess.DEVNULL, stdout=output,
                                       stderr=subprocess.STDOUT, env=surroundings)
            try:
                running.wait(seconds)
            except subprocess.TimeoutExpired:
                running.terminate()  # run-test ends what it has started
                running.wait()
                return 0, {"*": f"did not end in {seconds} s"}
            finally:
                if running.poll() is None:
                    running.terminate()
                    running.wait()
            output.seek(0)
            said = output.read()
        counts = COUNTS.findall(said)
        failures = {test: " ".join(why.split()) for test, why in FAILED.findall(said)}
        if not failures and (not counts or counts[-1][1] != "0"):
            failures["*"] = said.strip()[-300:] or "said nothing"
        return int(counts[-1][0]) if counts else 0, failures


def can_use_uring():
    return subprocess.run([ROOT / "tests/support/probe"], capture_output=True).returncode == 0


def workshop_or_sentence(directory):
    try:
        return Workshop(directory)
    except Broken as why:
        print(f"failed: workshop: {' '.join(str(why).split())[-600:]}\n0 passed, 1 failed")
        sys.exit(1)
