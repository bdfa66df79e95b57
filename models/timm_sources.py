"""Data sets on which the weights of timm were trained, by the tags of their names."""

import re

SOURCES = {
    r"in1k": "ImageNet-1k",
    r"in12k": "ImageNet-12k",
    r"in21k|in22k": "ImageNet-21k",
    r"inat21": "iNaturalist 2021",
    r"ade20k": "ADE20K",
    r"cc12m": "CC12M",
    r"cc3m": "CC3M",
    r"yfcc15m": "YFCC15M",
    r"yfcc100m|ssl": "YFCC100M",
    r"laion2b": "LAION-2B",
    r"laion400m": "LAION-400M",
    r"laiona": "LAION-Aesthetics",
    r"datacomp1b|datacompxl": "DataComp-1B",
    r"dfn2b|dfndr2b": "DFN-2B",
    r"dfn5b": "DFN-5B",
    r"merged2b": "Merged-2B",
    r"webli": "WebLI",
    r"openai": "WebImageText",
    r"metaclip2?": "MetaCLIP",
    r"jft": "JFT-300M",
    r"ig1b|ig|swsl|wsl|swag|seer": "Instagram",
    r"lvd142m": "LVD-142M",
    r"lvd1689m|dinov3": "LVD-1689M",
    r"sat493m": "SAT-493M",
}
"""Patterns of parts of tags, and the data sets: timm writes "clip_laion2b_ft_in12k_in1k" for a network that was trained on three of them, in this order."""

ILSVRC = "imagenet"
"""Name of ImageNet-1k in the configurations of benchmarks; ImageNet-12k and -21k contain its images."""

UNKNOWN, UNTRAINED = "unknown", "(none)"
"""Sources of weights whose tag names no data set, and of random weights."""


def sources_of(tag: str) -> tuple[str, ...]:
    """Names of the data sets in a tag, in the order of training; empty if it names none."""
    parts = [part for part in tag.lower().split("_") if part]
    found = (name for part in parts for pattern, name in SOURCES.items() if re.fullmatch(pattern, part))
    return tuple(dict.fromkeys(found))


def seen_by_tag(tag: str) -> tuple[str, tuple[str, ...]]:
    """The last data set of a tag, and the names of all others, with `ILSVRC` for any ImageNet."""
    *earlier, last = sources_of(tag) or (UNKNOWN,)
    any_imagenet = [ILSVRC] if any(name.startswith("ImageNet") for name in (*earlier, last)) else []
    return last, tuple([*any_imagenet, *earlier])
