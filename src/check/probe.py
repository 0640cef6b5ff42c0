# Runs inside the image, in a run that is discarded. Standard input: {"requirements", "constraints"}; standard output: one JSON
# object with the facts of this Python and what its pip, and uv where there is one, make of the requirements. Python 3.6 and
# pip 10 are old enough.
import json
import os
import shutil
import subprocess
import sys
import tempfile

wish = json.load(sys.stdin)
facts = {"python": "%d.%d.%d" % sys.version_info[:3], "pip": None, "tags": [], "environment": {}, "items": [], "uv": None}


def run(command):
    done = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, err = done.communicate()
    text = (out + b"\n" + err).decode("utf-8", "replace").strip()
    return done.returncode, out.decode("utf-8", "replace"), text[-8000:]


def write(name, text):
    path = os.path.join(work, name)
    with open(path, "w") as file:
        file.write(text)
    return path


def item(entry):
    meta, info = entry["metadata"], entry["download_info"]
    hashes = info.get("archive_info", {}).get("hashes", {})
    return {
        "name": meta["name"],
        "version": meta["version"],
        "url": info["url"],
        "sha256": hashes.get("sha256"),
        "direct": bool(entry.get("is_direct")),
        "requested": bool(entry.get("requested")),
        "requires": meta.get("requires_dist", []),
    }


try:
    import pip
    from pip._internal.utils.compatibility_tags import get_supported
    from pip._vendor.packaging.markers import default_environment

    facts["pip"] = pip.__version__
    facts["environment"] = default_environment()
    facts["tags"] = [str(tag) for tag in get_supported()]
except Exception as error:
    facts["fault"] = "%s: %s" % (type(error).__name__, error)

work = tempfile.mkdtemp()
requirements = write("requirements.txt", wish["requirements"])
constraints = ["-c", write("constraints.txt", wish["constraints"])] if wish["constraints"] else []
if facts["pip"] and wish["requirements"]:
    version = tuple(int(part) for part in facts["pip"].split(".")[:2] if part.isdigit())
    base = [sys.executable, "-m", "pip"]
    if version >= (22, 2):
        report = os.path.join(work, "report.json")
        how = ["install", "--quiet", "--dry-run", "--ignore-installed", "--report", report]
    else:
        files = os.path.join(work, "files")
        how = ["download", "--quiet", "--dest", files]
    facts["status"], _, facts["said"] = run(base + how + ["-r", requirements] + constraints)
    if facts["status"] == 0 and version >= (22, 2):
        with open(report) as file:
            facts["items"] = [item(entry) for entry in json.load(file)["install"]]
    elif facts["status"] == 0:
        facts["files"] = sorted(os.listdir(files))

uv = shutil.which("uv")
if uv and wish["requirements"]:
    how = [uv, "pip", "compile", "--quiet", "--no-header", "--no-annotate", "--emit-index-annotation"]
    status, out, said = run(how + ["--python", sys.executable, requirements] + constraints)
    facts["uv"] = {"status": status, "out": out, "said": said}

json.dump(facts, sys.stdout)
