"""The function that reads the archive of each set."""

from collections.abc import Callable

from .archive import Archive
from .challenges import imaterialist, inaturalist2019
from .contents import Contents
from .cucumber import cucumber
from .landmarks import google_landmarks
from .logos import belga_logos, logo_2k
from .photographs import eu_flood, magnetic_tile

READERS: dict[str, Callable[[Archive], Contents]] = {
    "logo_2k": logo_2k,
    "google_landmarks": google_landmarks,
    "inaturalist2019": inaturalist2019,
    "imaterialist": imaterialist,
    "magnetic_tile": magnetic_tile,
    "cucumber": cucumber,
    "eu_flood": eu_flood,
    "belga_logos": belga_logos,
}
