"""Steps that each run in a process of their own, and what one passes to the next."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


class Steps:
    """Steps over `n_rows` rows; what one passes to the next lies in `folder`."""

    def __init__(self, folder: Path, n_rows: int) -> None:
        self.folder, self.n_rows = folder, n_rows

    def _save(self, **values: Any) -> None:
        path = self.folder / "state.json"
        state = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps(state | values))

    def _load(self, name: str) -> Any:
        return json.loads((self.folder / "state.json").read_text())[name]
