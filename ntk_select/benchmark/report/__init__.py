"""Tables, figures and a page of the results of a benchmark.

`results` reads records into two tidy tables and, with `consensus`, gives the targets; `summary` takes measures of them; `tables` (with `targets`,
`ablations`, `forecast` and `costs`) and `figures` are functions of both, and `page` and `write` make files. `columns`, `words`, `drawing` and
texts.toml contain what readers see; `paper` contains printed numbers for comparison.
To add a table or a figure: its function in `TABLES` or `FIGURES`, its title and text in texts.toml.
"""

from ntk_select.errors import missing

try:
    import pandas as pandas
except ImportError as error:
    raise missing("pandas", "The report of a benchmark") from error
