#!/usr/bin/env python3
"""Makes what the Prometheus Operator and Grafana read out of deploy/prometheus
and deploy/dashboards, which are the originals."""

import argparse
import json
import pathlib
import re
import sys

HERE = pathlib.Path(__file__).resolve().parent
DEPLOY = HERE.parent.parent.parent
NOTE = "# Written by deploy/kustomize/components/monitoring/import.py.\n"


class ImportFailure(Exception):
    """Says what is wrong with which file."""


def rule_object(file):
    """The text of a PrometheusRule with the groups of `file`, a rule file of
    Prometheus itself."""
    lines = file.read_text().splitlines()
    start = next((number for number, line in enumerate(lines)
                  if line.rstrip() == "groups:"), None)
    if start is None:
        raise ImportFailure(f"{file}: no line says \"groups:\"")
    for number, line in enumerate(lines, 1):
        if (number != start + 1 and line.strip()
                and not re.match(r"[ #-]", line)):
            raise ImportFailure(f"{file}:{number}: beside \"groups\" nothing "
                                f"may stand at the left: {line}")
    # Expressions in several lines keep their shape: all moves alike.
    groups = "\n".join("  " + line if line.strip() else ""
                       for line in lines[start:]).rstrip()
    name = file.name.split(".")[0].replace("_", "-")
    return (f"apiVersion: monitoring.coreos.com/v1\n"
            f"kind: PrometheusRule\n"
            f"metadata:\n  name: sparseserve-{name}\nspec:\n{groups}\n")


def rules(folder):
    files = sorted(path for path in folder.glob("*.y*ml")
                   if re.search(r"(?m)^groups:", path.read_text()))
    if not files:
        raise ImportFailure(f"{folder}: no file with rules")
    return NOTE + "---\n".join(rule_object(file) for file in files)


def dashboards(folder):
    files = sorted(folder.glob("*.json"))
    if not files:
        raise ImportFailure(f"{folder}: no dashboard")
    for file in files:
        try:
            json.loads(file.read_text())
        except ValueError as error:
            raise ImportFailure(f"{file}: {error}") from error
    # One ConfigMap each: together they may be larger than one can be.
    maps = "".join(f"  - name: sparseserve-dashboard-{file.stem}\n"
                   f"    files: [{file.name}]\n" for file in files)
    return (NOTE + "# Grafana's sidecar takes every ConfigMap with this label."
            "\napiVersion: kustomize.config.k8s.io/v1beta1\n"
            "kind: Kustomization\n"
            "generatorOptions:\n"
            "  disableNameSuffixHash: true\n"
            "  labels:\n    grafana_dashboard: \"1\"\n"
            f"configMapGenerator:\n{maps}")


def component(text):
    """kustomization.yaml of the component, with what is written beside it."""
    kept = text.split("resources:\n")[0]
    return (f"{kept}resources:\n  - pod-monitor.yaml\n"
            "  - prometheus-rules.yaml\n  - ../../../dashboards\n")


def outputs(deploy):
    """Text of each file to write, by path."""
    monitoring = deploy / "kustomize/components/monitoring"
    kustomization = monitoring / "kustomization.yaml"
    return {
        monitoring / "prometheus-rules.yaml": rules(deploy / "prometheus"),
        deploy / "dashboards/kustomization.yaml":
            dashboards(deploy / "dashboards"),
        kustomization: component(kustomization.read_text()),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true",
                        help="write nothing; fail if anything would change")
    parser.add_argument("--deploy", type=pathlib.Path, default=DEPLOY,
                        help="the folder with kustomize, prometheus and "
                             "dashboards")
    arguments = parser.parse_args()
    try:
        wanted = outputs(arguments.deploy)
    except ImportFailure as failure:
        sys.exit(f"import.py: {failure}")
    changed = [path for path, text in wanted.items()
               if not path.exists() or path.read_text() != text]
    if arguments.check:
        for path in changed:
            print(f"import.py: {path} is out of date: run import.py",
                  file=sys.stderr)
        sys.exit(1 if changed else 0)
    for path in changed:
        path.write_text(wanted[path])
        print(f"wrote {path}")


if __name__ == "__main__":
    main()
