"""One part in one setting: `python -m accelerator PART SETTING FOLDER`, the setting as JSON. `check_accelerator.py` calls it."""

import json
import sys
from pathlib import Path

from accelerator.measure import measure
from accelerator.setting import Setting

if __name__ == "__main__":
    measure(sys.argv[1], Setting(**json.loads(sys.argv[2])), Path(sys.argv[3]))
