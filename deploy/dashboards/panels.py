"""Queries, panels and dashboards in Grafana's JSON, for generate.py.

A dashboard is a list of rows, a row a title and panels, a panel one or more
(query, legend).
"""

# What queries select. "All" stands for ".+", so that replicas which are gone
# still count where a query looks back.
PROCESS = 'job=~"$job", instance=~"$instance"'
MODEL = PROCESS + ', model_name=~"$model"'
RECORDED = 'job=~"$job", model_name=~"$model"'  # without instances
RECORDED_JOB = 'job=~"$job"'
GPU = 'job=~"$gpu_job"'
DAY, WEEK = " offset 1d", " offset 7d"
QUANTILES = ((0.5, "p50"), (0.95, "p95"), (0.99, "p99"))
PAST = (("", "now"), (DAY, "a day ago"), (WEEK, "a week ago"))


# Queries.


def rate(name, labels="", where=MODEL, offset=""):
    selector = ", ".join(filter(None, (where, labels)))
    return f"rate(sparseserve_{name}{{{selector}}}[$__rate_interval]{offset})"


def total(name, by="", labels="", where=MODEL, offset=""):
    grouped = f" by ({by})" if by else ""
    return f"sum{grouped} ({rate(name, labels, where, offset)})"


def value(name, by="", labels="", where=MODEL, how="sum"):
    selector = ", ".join(filter(None, (where, labels)))
    grouped = f" by ({by})" if by else ""
    return f"{how}{grouped} (sparseserve_{name}{{{selector}}})"


def quantile(q, name, by="", labels="", where=MODEL, offset=""):
    groups = ", ".join(filter(None, ("le", by)))
    buckets = total(f"{name}_bucket", groups, labels, where, offset)
    return f"histogram_quantile({q}, {buckets})"


def mean(name, by="", labels="", where=MODEL, offset=""):
    return (f"{total(name + '_sum', by, labels, where, offset)} / "
            f"{total(name + '_count', by, labels, where, offset)}")


def share(part, whole, by=""):
    """`part` and `whole` are (name, labels); groups by `by`."""
    return f"{total(part[0], by, part[1])} / {total(whole[0], by, whole[1])}"


def of_all(name, by, over="", labels=""):
    """Each of `by` as a share of the sum over it; separately for `over`."""
    groups = ", ".join(filter(None, (over, by)))
    if over:
        return (f"{total(name, groups, labels)} / on ({over}) group_left () "
                f"{total(name, over, labels)}")
    return (f"{total(name, groups, labels)} / ignoring ({by}) group_left () "
            f"{total(name, '', labels)}")


def by_version(name, labels=""):
    return (f"({rate(name, labels)} * on (job, instance) group_left (version) "
            f"sparseserve_build_info{{{PROCESS}}})")


def quantiles(name, by="", labels="", where=MODEL):
    legend = f" {{{{{by}}}}}" if by else ""
    return [(quantile(q, name, by, labels, where), text + legend)
            for q, text in QUANTILES]


def then_and_now(query):
    """`query` gives an expression for an offset."""
    return [(query(offset), text) for offset, text in PAST]


def ratios(query):
    return [(f"({query('')}) / ({query(offset)})", f"to {text}")
            for offset, text in PAST[1:]]


# Panels and dashboards.


def panel(title, description, unit, targets, kind="timeseries", width=8,
          stacked=False):
    if isinstance(targets, str):
        targets = [(targets, "")]
    return {"title": title, "description": description, "unit": unit,
            "targets": targets, "kind": kind, "width": width,
            "stacked": stacked}


def datasource():
    return {"type": "prometheus", "uid": "${datasource}"}


def target(index, expression, legend, kind):
    result = {"refId": chr(ord("A") + index), "datasource": datasource(),
              "expr": expression, "legendFormat": legend or "__auto"}
    if kind == "table":
        result.update({"format": "table", "instant": True})
    if kind == "heatmap":
        result.update({"format": "heatmap", "legendFormat": "{{le}}"})
    return result


def options_of(kind):
    if kind == "timeseries":
        return {"legend": {"displayMode": "list", "placement": "bottom"},
                "tooltip": {"mode": "multi", "sort": "desc"}}
    if kind == "stat":
        return {"reduceOptions": {"calcs": ["lastNotNull"]}}
    if kind == "heatmap":
        return {"calculate": False, "yAxis": {"unit": "s"}}
    return {}


def panel_json(spec, number, x, y):
    custom = {}
    if spec["kind"] == "timeseries":
        custom = {"lineWidth": 1, "fillOpacity": 40 if spec["stacked"] else 0,
                  "showPoints": "never", "stacking":
                  {"mode": "normal" if spec["stacked"] else "none"}}
    return {
        "id": number, "type": spec["kind"], "title": spec["title"],
        "description": spec["description"], "datasource": datasource(),
        "gridPos": {"h": 8, "w": spec["width"], "x": x, "y": y},
        "fieldConfig": {"defaults": {"unit": spec["unit"], "custom": custom},
                        "overrides": []},
        "options": options_of(spec["kind"]),
        "targets": [target(i, expression, legend, spec["kind"])
                    for i, (expression, legend) in enumerate(spec["targets"])]}


def variable(name, label, query, multiple=True):
    return {
        "name": name, "label": label, "type": "query",
        "datasource": datasource(), "definition": query,
        "query": {"query": query, "refId": name}, "refresh": 2, "sort": 1,
        "multi": multiple, "includeAll": True, "allValue": ".+",
        "current": {"selected": True, "text": "All", "value": "$__all"}}


def variables(more):
    info = "sparseserve_build_info"
    ready = "sparseserve_model_ready"
    return [
        {"name": "datasource", "label": "Data source", "type": "datasource",
         "query": "prometheus", "current": {}},
        variable("job", "Job", f"label_values({info}, job)"),
        variable("instance", "Instance",
                 f'label_values({info}{{job=~"$job"}}, instance)'),
        variable("model", "Model",
                 f"label_values({ready}{{{PROCESS}}}, model_name)"),
    ] + more


def dashboard(uid, title, description, rows, more_variables=()):
    panels, number, y = [], 0, 0
    for row_title, specs in rows:
        number += 1
        panels.append({"id": number, "type": "row", "title": row_title,
                       "collapsed": False, "panels": [],
                       "gridPos": {"h": 1, "w": 24, "x": 0, "y": y}})
        x, y = 0, y + 1
        for spec in specs:
            if x + spec["width"] > 24:
                x, y = 0, y + 8
            number += 1
            panels.append(panel_json(spec, number, x, y))
            x += spec["width"]
        y += 8
    return {
        "uid": f"sparseserve-{uid}", "title": f"sparseserve / {title}",
        "description": description, "tags": ["sparseserve"],
        "schemaVersion": 38, "version": 1, "editable": False,
        "timezone": "utc", "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "templating": {"list": variables(list(more_variables))},
        "annotations": {"list": []},
        "links": [{"title": "sparseserve", "type": "dashboards",
                   "tags": ["sparseserve"], "asDropdown": True,
                   "keepTime": True, "includeVars": True}],
        "panels": panels}
