"""Execute notebooks in place in the reference environment: `make outputs [NB="01 04"]`.

With no name: all notebooks and their solutions. A notebook that fails keeps its old file.
"""

import subprocess
import sys
import time
from pathlib import Path

import nbformat
import reference
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError


def cleaned(notebook):
    """The notebook without what differs from run to run or from editor to editor."""
    for cell in notebook.cells:
        cell.metadata = {key: value for key, value in cell.metadata.items() if key in ("tags", "jupyter") and value}
        for output in cell.get("outputs", []):
            if "metadata" in output:
                output["metadata"] = {}
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook.metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    return notebook


def refresh(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    folder = {"metadata": {"path": str(path.parent)}}
    client = NotebookClient(notebook, timeout=None, kernel_name="python3", record_timing=False, resources=folder)
    client.execute(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # the kernel's own log lines
    new = path.with_name(path.name + ".new")
    nbformat.write(cleaned(notebook), new)
    new.replace(path)


def main(names: list[str]) -> int:
    paths = [p for p in reference.NOTEBOOKS + reference.SOLUTIONS if p.name.startswith(tuple(names or [""]))]
    paths = paths or [Path(name).absolute() for name in names if Path(name).is_file()]
    if not paths:
        print(f"error: no notebook begins with {' or '.join(names)}", file=sys.stderr)
        return 2
    reference.enter()
    failed = 0
    for path in paths:
        start, fault = time.monotonic(), ""
        try:
            refresh(path)
        except CellExecutionError as error:
            fault = f"  failed, left as it was: {error.ename}: {error.evalue}"
            failed += 1
        print(f"{path.stem:<36} {time.monotonic() - start:5.0f} s{fault}", flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
