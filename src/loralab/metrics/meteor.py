"""METEOR 1.5 (Denkowski and Lavie 2014) by the authors' Java program, which pycocoevalcap ships. English only.

Run once for all texts, with its own paraphrases and synonyms of English.
"""

import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from loralab.errors import MissingDependencyError
from loralab.extras import lazy
from loralab.metrics.scores import check_pairs

coco_meteor = lazy("pycocoevalcap.meteor.meteor", "metrics")

INSTALL_JAVA = "install a Java runtime (Debian, Ubuntu: apt-get install default-jre-headless)"

FINAL_SCORE = re.compile(r"^Final score:\s+(\d\S*)\s*$", re.MULTILINE)

JAVA_OPTIONS = ("-Xmx2G", "-Xms2G", "-Xmn1400m", "-XX:+UseSerialGC", "-Dfile.encoding=UTF-8", "-Duser.language=en")
"""The memory that the official scripts give it, most of it for young objects (a third faster than Java's own choice);
the same result in every locale."""


def meteor(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """The score of all texts together, 0–100, of texts split into tokens or not (the program normalises them).

    Raises `DataError` where predictions and references do not pair up, and `MissingDependencyError` without
    pycocoevalcap or Java, or with a Java that does not run the program.
    """
    check_pairs(predictions, references)
    java, jar = _find_java(), Path(coco_meteor.__file__).with_name("meteor-1.5.jar")
    with TemporaryDirectory(prefix="loralab-meteor-") as folder:
        outputs, answers = Path(folder, "outputs"), Path(folder, "references")
        count = max(map(len, references))
        _write_lines(outputs, predictions)
        _write_lines(answers, [text for texts in references for text in _padded(texts, count)])
        options = ["-l", "en", "-norm", "-r", str(count)]
        return 100.0 * _final_score([java, *JAVA_OPTIONS, "-jar", str(jar), str(outputs), str(answers), *options])


def _find_java() -> str:
    java = shutil.which("java")
    if java is None:
        raise MissingDependencyError(f"there is no java on the PATH; {INSTALL_JAVA}")
    return java


def _padded(texts: Sequence[str], count: int) -> list[str]:
    """The program wants as many references of every text. A blank one matches nothing: the best one stays.

    On a tie the first one counts, so blank ones come last.
    """
    present = [text for text in texts if text.strip()]
    return present + [""] * (count - len(present))


def _write_lines(path: Path, texts: Sequence[str]) -> None:
    lines = "".join(" ".join(text.split()) + "\n" for text in texts)
    path.write_bytes(lines.encode("utf-8", errors="replace"))


def _final_score(command: Sequence[str]) -> float:
    done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", check=False)
    score = FINAL_SCORE.search(done.stdout)
    if done.returncode != 0 or score is None:
        said = (done.stderr.strip() or done.stdout.strip() or "nothing")[-500:]
        raise MissingDependencyError(
            f"{command[0]} could not run METEOR (exit status {done.returncode}); it said: {said}; {INSTALL_JAVA}"
        )
    return float(score.group(1))
