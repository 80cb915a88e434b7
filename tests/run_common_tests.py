"""Runs transformers' own common tests, unmodified, on the classes of this package: `python tests/run_common_tests.py`.

The tests come with the source distribution of the installed version of transformers, which is downloaded once, or with
a local copy of it: `--source` (or the environment variable PRIVSEG_TRANSFORMERS_SOURCE) names an archive, its unpacked
folder or a checkout. They are unpacked into a temporary folder together with `transformers_common/setr_common.py`,
which applies them to SETR with each decoder. Exit code 1 where a test fails.

The source distribution leaves out a few files that the common tests import. In their place the temporary folder gets
empty ones, so from the source distribution alone the tests of generation (SETR does not generate) and of the exporters
are not run; a checkout has them all.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path

import transformers

HERE = Path(__file__).resolve().parent
DEFAULT_CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "hf-privseg"

# Only what a source distribution lacks: path -> the least that the common tests need to be imported.
ABSENT = {
    "tests/exporters/test_export.py": "class ExportTesterMixin:\n    pass\n",
    "tests/generation/test_utils.py": "class GenerationTesterMixin:\n    pass\n",
    "tests/utils/test_configuration_utils.py": "config_common_kwargs = {}\n",
    "utils/fetch_hub_objects_for_ci.py": "def url_to_local_path(url):\n    return url\n",
}


def archive_of(version: str, cache: Path) -> Path:
    """The source distribution of that version of transformers, downloaded where it is not in `cache` yet."""
    archive = cache / f"transformers-{version}.tar.gz"
    if not archive.exists():
        cache.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "transformers"]
        subprocess.run([*command, "--dest", str(cache), f"transformers=={version}"], check=True)
    return archive


def lay_out(source: Path, target: Path) -> None:
    """transformers' tests from an archive or folder, the files it lacks, and ours -> `target`."""
    if source.is_file():
        with tarfile.open(source) as archive:
            archive.extractall(target / "unpacked", filter="data")
        (source,) = (target / "unpacked").iterdir()
    for name in ("tests", "utils"):
        if (source / name).is_dir():
            shutil.copytree(source / name, target / name)
    if not (target / "tests" / "test_modeling_common.py").exists():
        sys.exit(f"expected transformers' common tests in {source}/tests, found no test_modeling_common.py there")
    for name, content in ABSENT.items():
        path = target / name
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
            print(f"not in this copy of the tests, and left out: {name}")
    folder = target / "tests" / "models" / "setr"
    folder.mkdir(parents=True)
    shutil.copy(HERE / "transformers_common" / "setr_common.py", folder / "test_modeling_setr.py")
    for package in {path.parent for path in (target / "tests").rglob("*.py")} | {folder.parent}:
        (package / "__init__.py").touch()


def summary(report: Path) -> tuple[Counter[str], Counter[str]]:
    """A JUnit report -> how many passed, failed and were skipped, and the skips by reason."""
    outcomes: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    for case in ElementTree.parse(report).iter("testcase"):
        skipped = case.find("skipped")
        if skipped is not None:
            outcomes["skipped"] += 1
            reasons[re.sub(r"Setr\w+", "<class>", skipped.get("message", ""))] += 1
        else:
            outcomes["failed" if case.find("failure") is not None or case.find("error") is not None else "passed"] += 1
    return outcomes, reasons


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--source",
        type=Path,
        default=os.environ.get("PRIVSEG_TRANSFORMERS_SOURCE"),
        help="archive, unpacked folder or checkout of transformers; downloaded where it is not given",
    )
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE, help="where the download is kept")
    parser.add_argument("pytest", nargs="*", help="arguments for pytest, after --")
    arguments = parser.parse_args()
    version = transformers.__version__
    source = Path(arguments.source) if arguments.source else archive_of(version, arguments.cache)
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder)
        lay_out(source, target)
        report = target / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--rootdir={target}"]
        command += [
            "-o",
            "addopts=",
            "-W",
            "ignore",
            f"--junitxml={report}",
            "tests/models/setr/test_modeling_setr.py",
        ]
        paths = [str(HERE.parent), os.environ.get("PYTHONPATH", "")]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "HF_HUB_OFFLINE": "1"}
        subprocess.run([*command, *arguments.pytest], cwd=target, env=environment, check=False)
        if not report.exists():
            return 1
        outcomes, reasons = summary(report)
    print(f"\ntransformers {version}, common tests on SETR (naive, pup, mla) and its image processor:")
    print(", ".join(f"{outcomes[kind]} {kind}" for kind in ("passed", "failed", "skipped")))
    for reason, count in reasons.most_common():
        print(f"  {count:4d} skipped: {reason}")
    return int(outcomes["failed"] > 0 or not outcomes["passed"])


if __name__ == "__main__":
    sys.exit(main())
