"""Prometheus' text format: read, carried on, written."""

import re

SAMPLE = re.compile(r"([A-Za-z_:][\w:]*)(?:\{(.*)\})? (\S+)$")
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


class Exposition:
    """Families by name with their types, and samples as
    {(name, labels as sorted pairs): value}."""

    def __init__(self, text):
        self.text = text
        self.types, self.samples = {}, {}
        for line in text.splitlines():
            if line.startswith("# TYPE "):
                _, _, name, kind = line.split(" ")
                self.types[name] = kind
            elif line and not line.startswith("#"):
                name, labels, value = SAMPLE.match(line).groups()
                key = (name, tuple(sorted(LABEL.findall(labels or ""))))
                self.samples[key] = float(value)

    def families(self):
        return set(self.types)

    def family_of(self, name):
        if name in self.types:
            return name
        return re.sub(r"_(bucket|sum|count)$", "", name)

    def is_counter(self, name):
        return self.types.get(self.family_of(name)) != "gauge"


class Course:
    """What a server showed at two times, carried on evenly: counters go on at
    the rate between the two, gauges keep the later value."""

    def __init__(self, first, second):
        self.second = second
        self.gained = {
            key: max(0.0, value - first.samples.get(key, 0.0))
            if second.is_counter(key[0]) else None
            for key, value in second.samples.items()}

    def moving(self):
        """Series that are not counters at rest."""
        return [key for key, gained in self.gained.items() if gained != 0]

    def value(self, key, times):
        """Of a series once so much as lay between the two came `times` over."""
        gained = self.gained[key]
        return (self.second.samples[key] if gained is None
                else gained * times)


def line(key, value, **more):
    """One sample; `more` adds labels or replaces them."""
    name, labels = key
    pairs = {**dict(labels), **more}
    text = ",".join(f'{label}="{value}"' for label, value in pairs.items())
    return f"{name}{{{text}}} {value:.17g}"
