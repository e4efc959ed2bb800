#!/usr/bin/env python3
"""Writes the Grafana dashboards of this folder.

Usage: generate.py [--check]

--check writes nothing and fails if a file is not what would be written.

To add a panel, add a line here and run this; tests/deploy/dashboards_test.py says
what every panel must have, and prometheus_gate_test.py runs its queries.
"""

import json
import pathlib
import sys

from panels import (MODEL, PAST, PROCESS, QUANTILES, RECORDED, RECORDED_JOB, GPU,
                    WEEK, by_version, dashboard, mean, of_all, panel, quantile,
                    quantiles, ratios, share, then_and_now, total, value,
                    variable)

FOLDER = pathlib.Path(__file__).resolve().parent

# The dashboards.


def burn(recorded, budget, where):
    return [(f"{recorded}:ratio_rate{window}{{{where}}} / {budget}", window)
            for window in ("5m", "30m", "1h", "6h", "3d")]


def service_overview():
    calls = "grpc_server_call_duration_seconds"
    return dashboard("overview", "service overview", (
        "Whether callers get what they ask for, and what runs short."), [
        ("Traffic", [
            panel("Calls by method", "Calls that began, whatever became of "
                  "them.", "reqps", [(total(
                      "grpc_server_calls_started_total", "grpc_method",
                      where=PROCESS), "{{grpc_method}}")]),
            panel("Calls by status", "Calls that ended, by gRPC status.",
                  "reqps", [(total(f"{calls}_count", "grpc_status",
                                   where=PROCESS), "{{grpc_status}}")]),
            panel("Requests by end", "Accepted requests that ended, by why.",
                  "reqps", [(total("requests_finished_total", "finish_reason"),
                             "{{finish_reason}}")]),
            panel("Refused requests", "Requests that were not accepted, by "
                  "why. queue_full and kv_capacity ask for more replicas.",
                  "reqps", [(total("requests_rejected_total", "reason"),
                             "{{reason}}")]),
            panel("Cancelled requests", "Accepted requests that were "
                  "cancelled, by where they were and by what.", "reqps",
                  [(total("requests_cancelled_total", "stage, cause"),
                    "{{stage}} by {{cause}}")]),
            panel("Tokens", "Prompt tokens that were computed or found in the "
                  "prefix cache, and tokens that were generated.", "short",
                  [(total("prompt_tokens_total", "source"),
                    "prompt, {{source}}"),
                   (total("generation_tokens_total"), "generated")]),
        ]),
        ("Objectives", [
            panel("Burn rate: time to first token", "How many times faster "
                  "than evenly the month's budget of late first tokens goes: "
                  "1 % may take more than 2.5 s, of prompts of at most 4,096 "
                  "tokens. Alerts are at 14.4 (1h and 5m), 6 (6h and 30m) and "
                  "1 (3d and 6h).", "none",
                  burn("model:sparseserve_time_to_first_token_missed", 0.01,
                       RECORDED)),
            panel("Burn rate: time per output token", "Likewise of answers "
                  "that take more than 50 ms a token, of which 1 % may.",
                  "none",
                  burn("model:sparseserve_time_per_output_token_missed", 0.01,
                       RECORDED)),
            panel("Burn rate: availability", "Likewise of calls that fail by "
                  "the server's fault, of which 0.1 % may.", "none",
                  burn("job:sparseserve_calls_failed", 0.001, RECORDED_JOB)),
            panel("Missed targets", "Share of the latency targets that "
                  "requests named which were missed.", "percentunit",
                  [(share(("latency_targets_total", 'outcome="missed"'),
                          ("latency_targets_total", ""), "target"),
                    "{{target}}")]),
        ]),
        ("Latency", [
            panel("Time to first token", "From arrival to the first token, by "
                  "length of the prompt.", "s",
                  quantiles("time_to_first_token_seconds", "prompt_class")),
            panel("Time to first token, all", "The same as a picture of all "
                  "requests.", "s", [(total(
                      "time_to_first_token_seconds_bucket", "le"), "")],
                  kind="heatmap"),
            panel("Time between tokens", "Between two tokens of one stream, "
                  "each token counted.", "s",
                  quantiles("inter_token_latency_seconds")),
            panel("Time per output token", "Mean time between the tokens of "
                  "one answer, each answer counted.", "s",
                  quantiles("time_per_output_token_seconds")),
            panel("Time of requests", "From arrival to the end.", "s",
                  [(quantile(q, "request_duration_seconds", "operation"),
                    f"{text} {{{{operation}}}}") for q, text in
                   QUANTILES[:2]]),
            panel("Time in the queue", "From arrival to the first step.", "s",
                  quantiles("request_queue_time_seconds")),
            panel("Time of calls", "From arrival to the status, by method.",
                  "s", [(quantile(0.95, calls, "grpc_method", where=PROCESS),
                         "p95 {{grpc_method}}")]),
        ]),
        ("Saturation", [
            panel("Running and waiting", "Requests in the batch, and such "
                  "that wait for a place: what to scale on.", "short",
                  [(value("requests_running", "instance", where=PROCESS),
                    "running {{instance}}"),
                   (value("requests_waiting", "instance", where=PROCESS),
                    "waiting {{instance}}")]),
            panel("Running and waiting by model", "The same by model.",
                  "short",
                  [(value("model_requests_running", "model_name"),
                    "running {{model_name}}"),
                   (value("model_requests_waiting", "model_name"),
                    "waiting {{model_name}}")]),
            panel("KV pages in use", "Share of pages that running requests "
                  "hold; cached ones are free for others.", "percentunit",
                  [(value("kv_cache_usage_ratio", "instance", where=PROCESS,
                          how="max"), "{{instance}}")]),
            panel("Requests in a step", "Mean number of requests that a step "
                  "works on.", "short",
                  [(mean("batch_requests", "phase"), "{{phase}}")]),
            panel("Time of steps", "One step; with any prompt token it counts "
                  "as prefill.", "s",
                  [(quantile(q, "engine_step_seconds", "phase"),
                    f"{text} {{{{phase}}}}") for q, text in QUANTILES]),
            panel("Preempted requests", "Requests whose pages were taken "
                  "away; they are computed anew.", "reqps",
                  [(total("preemptions_total", "mode"), "{{mode}}")]),
            panel("Blocked streams", "How long a message waited for its "
                  "caller to read.", "s",
                  [(quantile(q, "stream_write_blocked_seconds",
                             where=PROCESS), text) for q, text in QUANTILES]),
            panel("Unread output", "Output that waits for callers to read "
                  "it.", "bytes",
                  [(value("stream_buffered_bytes", "instance", where=PROCESS),
                    "{{instance}}")]),
        ]),
        ("Replicas", [
            panel("Replicas by version", "Servers that are scraped.", "short",
                  [(f"count by (version) (sparseserve_build_info{{{PROCESS}}})",
                    "{{version}}")], stacked=True),
            panel("Ready and draining", "Replicas that take requests, and "
                  "such that finish before they stop.", "short",
                  [(value("model_ready", "model_name"), "ready {{model_name}}"),
                   (value("server_draining", where=PROCESS), "draining")]),
            panel("Up for", "Time since the process started.", "s",
                  [(f"time() - process_start_time_seconds{{{PROCESS}}}",
                    "{{instance}}")]),
            panel("Loading", "What loading the model took at the last start.",
                  "s", [(value("model_load_duration_seconds",
                               "instance, stage", how="max"),
                         "{{instance}} {{stage}}")]),
            panel("Doubts", "Lines missing in the log, and measurements that "
                  "were impossible and replaced: both should be 0.", "cps",
                  [(total("log_lines_dropped_total", where=PROCESS),
                    "log lines dropped"),
                   (total("metrics_clamped_total", where=PROCESS),
                    "measurements clamped")]),
            panel("Builds", "What runs where.", "none",
                  [(f"sparseserve_build_info{{{PROCESS}}}", "")], kind="table",
                  width=12),
            panel("Models", "What is served where.", "none",
                  [(f"sparseserve_model_info{{{MODEL}}}", "")], kind="table",
                  width=12),
            panel("KV caches", "Tokens of a page, and pages.", "none",
                  [(f"sparseserve_cache_config_info{{{PROCESS}}}", "")],
                  kind="table", width=12),
        ])])


def latency_regression():
    first = "time_to_first_token_seconds"
    each = "time_per_output_token_seconds"

    def p95(name, by="", labels=""):
        return lambda offset: quantile(0.95, name, by, labels, offset=offset)

    def tokens(offset=""):
        computed = total("prompt_tokens_total", labels='source="computed"',
                         offset=offset)
        return (f"({computed} + "
                f"{total('generation_tokens_total', offset=offset)})")

    def stage_cost(offset=""):
        busy = total("stage_busy_seconds_total", "stage", offset=offset)
        return f"{busy} / on () group_left () {tokens(offset)}"

    def block_cost(offset=""):
        busy = total("stage_busy_seconds_total", labels='stage="attention"',
                     offset=offset)
        blocks = total("attention_blocks_total", labels='outcome="computed"',
                       offset=offset)
        return f"{busy} / {blocks}"

    def versions(q, name):
        buckets = f"sum by (le, version) {by_version(name + '_bucket')}"
        return [(f"histogram_quantile({q}, {buckets})", "{{version}}")]

    return dashboard("regression", "latency regression", (
        "Whether the service became slower, since when, and where: compare "
        "with a day and a week ago, then ask whether the work got dearer, the "
        "work got different, or there is more of it."), [
        ("Now against before", [
            panel("Time to first token, p95", "All prompts together: see the "
                  "mix below before believing it.", "s",
                  then_and_now(p95(first))),
            panel("Time to first token, p95 by prompt class", "Ratio to a "
                  "week ago within one class of prompt lengths; 1.3 alerts.",
                  "none", [(f"({p95(first, 'prompt_class')('')}) / "
                            f"({p95(first, 'prompt_class')(offset)})",
                            f"{{{{prompt_class}}}} to {text}")
                           for offset, text in PAST[1:]]),
            panel("Time to first token, recorded", "What the alerts compare: "
                  "15 minutes against the hour a day and a week ago.", "s",
                  [(f"class:sparseserve_{first}:p95_{window}{{{RECORDED}}}",
                    f"{{{{prompt_class}}}} {text}") for window, text in
                   (("rate15m", "now"), ("rate1h_1d_ago", "a day ago"),
                    ("rate1h_7d_ago", "a week ago"))]),
            panel("Time per output token, p95", "Each answer counted once.",
                  "s", then_and_now(p95(each))),
            panel("Time per output token, p95, ratio", "1.3 alerts.", "none",
                  ratios(p95(each))),
            panel("Time between tokens, p99", "Each token counted: stalls in "
                  "the middle of answers.", "s", then_and_now(
                      lambda offset: quantile(
                          0.99, "inter_token_latency_seconds",
                          offset=offset))),
            panel("Time of requests, p95", "From arrival to the end, of "
                  "streams.", "s", then_and_now(
                      p95("request_duration_seconds", "",
                          'operation="stream_generate"'))),
            panel("Time of steps with prompts, p95", "Steps with any prompt "
                  "token.", "s", then_and_now(
                      p95("engine_step_seconds", "", 'phase="prefill"'))),
            panel("Time of steps without, p95", "Steps with output alone.",
                  "s", then_and_now(
                      p95("engine_step_seconds", "", 'phase="decode"'))),
        ]),
        ("Did the same work get dearer?", [
            panel("Stage time per token", "Busy time of each stage over "
                  "tokens computed: independent of load, not of lengths and "
                  "batch sizes.", "s", [(stage_cost(), "{{stage}}")]),
            panel("Stage time per token, ratio", "To a week ago; 1.2 alerts "
                  "if batches are alike.", "none",
                  [(f"({stage_cost()}) / ({stage_cost(WEEK)})", "{{stage}}")]),
            panel("Attention time per block", "Of KV blocks that were "
                  "visited: independent of density and prompt lengths. 1.2 "
                  "times a week ago alerts.", "s", then_and_now(block_cost)),
            panel("Step time per token", "Of all steps, the only one of these "
                  "that a GPU has.", "s", then_and_now(
                      lambda offset: "{} / {}".format(
                          total("engine_step_seconds_sum", offset=offset),
                          tokens(offset)))),
            panel("Learned costs", "What the scheduler learned that a step's "
                  "parts take: a constant, rows, and KV blocks that they "
                  "visit.", "s", [(value("step_cost_seconds", "term",
                                         how="avg"), "{{term}}")]),
            panel("CPU time per token", "Of the whole process.", "s",
                  [("sum (rate(process_cpu_seconds_total"
                    f"{{{PROCESS}}}[$__rate_interval])) / {tokens()}",
                    "now")]),
        ]),
        ("By version", [
            panel("Time to first token, p95 by version", "While two versions "
                  "serve side by side; 1.2 times the other alerts.", "s",
                  versions(0.95, first)),
            panel("Time per output token, p95 by version", "Likewise.", "s",
                  versions(0.95, each)),
            panel("Requests by version", "Whether both have traffic.", "reqps",
                  [(f"sum by (version) {by_version(first + '_count')}",
                    "{{version}}")]),
            panel("Stage time per token by version", "All stages together.",
                  "s", [("sum by (version) "
                         f"{by_version('stage_busy_seconds_total')} / (sum by "
                         f"(version) {by_version('generation_tokens_total')} + "
                         "sum by (version) " + by_version(
                             "prompt_tokens_total", 'source="computed"') + ")",
                         "{{version}}")]),
            panel("Recorded by version", "What the alerts compare.", "s",
                  [(f"version:sparseserve_{each}:p95_rate15m{{{RECORDED}}}",
                    "{{version}} per token"),
                   (f"version:sparseserve_{first}:p95_rate15m{{{RECORDED}}}",
                    "{{version}} first token, {{prompt_class}}")]),
        ]),
        ("Where a request's time goes", [
            panel("Queue, prefill and decode", "Mean time of a request in "
                  "each.", "s",
                  [(mean("request_queue_time_seconds"), "queue"),
                   (mean("request_phase_seconds", "phase"), "{{phase}}")],
                  stacked=True),
            panel("Queue's share of the first token", "Near 1: too much "
                  "load. Near 0: the work itself is slow.", "percentunit",
                  [("{} / {}".format(total("request_queue_time_seconds_sum"),
                                     total(f"{first}_sum")), "queue")]),
            panel("Stages of a step", "Share of each stage in the busy time.",
                  "percentunit",
                  [(of_all("stage_busy_seconds_total", "stage"),
                    "{{stage}}")], stacked=True),
        ]),
        ("Did the work change?", [
            panel("Prompt classes", "Share of requests by length of the "
                  "prompt: more long ones look like a slower server.",
                  "percentunit", [(of_all(f"{first}_count", "prompt_class"),
                                   "{{prompt_class}}")], stacked=True),
            panel("Prompt length", "Mean tokens of a prompt.", "short",
                  then_and_now(lambda offset: mean("request_prompt_tokens",
                                                   offset=offset))),
            panel("Answer length", "Mean tokens of an answer.", "short",
                  then_and_now(lambda offset: mean(
                      "request_generation_tokens", offset=offset))),
            panel("Tokens in a step", "Mean, by phase: larger batches are "
                  "cheaper per token and take longer.", "short",
                  [(mean("batch_tokens", "phase", offset=offset),
                    f"{{{{phase}}}} {text}") for offset, text in PAST]),
            panel("Prefix cache hits", "Share of prompt tokens that were "
                  "found and not computed.", "percentunit",
                  then_and_now(lambda offset: "{} / {}".format(
                      total("prefix_cache_hit_tokens_total", offset=offset),
                      total("prefix_cache_query_tokens_total",
                            offset=offset)))),
            panel("Density", "Share of the blocks that the mask allows which "
                  "are visited.", "percentunit", then_and_now(
                      lambda offset: "{} / {}".format(
                          total("attention_blocks_total",
                                labels='outcome="computed"', offset=offset),
                          total("attention_blocks_total", offset=offset)))),
            panel("Load", "Requests that begin.", "reqps", then_and_now(
                lambda offset: total(f"{first}_count", offset=offset))),
        ])])


def sparsity_and_memory():
    shadow = "shadow_runs_total"
    density = "attention_density_ratio"
    return dashboard("sparsity", "sparsity and memory", (
        "What sparse attention does, what it gives up, who watches it, and "
        "where memory is."), [
        ("Plans", [
            panel("Plans", "Share of requests that ran with each plan.",
                  "percentunit", [(of_all("plan_requests_total", "plan",
                                          "phase"), "{{phase}} {{plan}}")]),
            panel("Missed targets by plan", "Share of the targets that a plan "
                  "was chosen by.", "percentunit",
                  [(share(("plan_targets_total", 'outcome="missed"'),
                          ("plan_targets_total", ""), "plan"), "{{plan}}")]),
            panel("Missed targets by prompt class", "The same by length of "
                  "the prompt.", "percentunit",
                  [(share(("plan_targets_total", 'outcome="missed"'),
                          ("plan_targets_total", ""), "prompt_class"),
                    "{{prompt_class}}")]),
            panel("Slack", "Mean time that was left of a target, or by which "
                  "it was missed, over all targets.", "s",
                  [(f"{total('plan_slack_seconds_total', 'plan, sign')} / on "
                    "(plan) group_left () "
                    f"{total('plan_targets_total', 'plan')}",
                    "{{plan}} {{sign}}")]),
            panel("Predictions", "Where actual latencies lie among the "
                  "predicted percentiles: half should be within p50, one in "
                  "twenty beyond p95.", "percentunit",
                  [(of_all("predictions_total", "outcome", "quantity"),
                    "{{quantity}} {{outcome}}")]),
            panel("Error of predictions", "Mean distance from the predicted "
                  "median, by direction.", "s",
                  [(f"{total('prediction_error_seconds_total', 'quantity, sign')}"
                    " / on (quantity) group_left () "
                    f"{total('predictions_total', 'quantity')}",
                    "{{quantity}} {{sign}}")]),
            panel("Switches", "Changes of a running request's plan.", "cps",
                  [(total("plan_switches_total", "phase"), "{{phase}}")]),
        ]),
        ("Patterns", [
            panel("Patterns of prompts", "Share of head executions by "
                  "pattern.", "percentunit",
                  [(of_all("attention_heads_total", "pattern",
                           labels='phase="prefill"'), "{{pattern}}")],
                  stacked=True),
            panel("Patterns of output", "Likewise of output.", "percentunit",
                  [(of_all("attention_heads_total", "pattern",
                           labels='phase="decode"'), "{{pattern}}")],
                  stacked=True),
            panel("Density of requests", "Blocks visited over blocks that the "
                  "mask allows, of one request.", "percentunit",
                  [(quantile(q, density, "phase"), f"{text} {{{{phase}}}}")
                   for q, text in QUANTILES[:2]]),
            panel("Density of all work", "Recorded, against a week ago; 1.5 "
                  "times alerts.", "percentunit",
                  [(f"phase:sparseserve_attention_density:{window}"
                    f"{{{RECORDED}}}", f"{{{{phase}}}} {text}")
                   for window, text in (("ratio_rate30m", "now"),
                                        ("ratio_rate1h_7d_ago",
                                         "a week ago"))]),
            panel("Fallbacks", "Requests that ran densely where a sparse plan "
                  "was chosen or asked for, by why.", "reqps",
                  [(total("sparse_fallbacks_total", "reason"),
                    "{{reason}}")]),
            panel("Fallback share", "Of all requests, without those that "
                  "asked to be dense; 20 % alerts.", "percentunit",
                  [("phase:sparseserve_sparse_fallbacks:ratio_rate30m"
                    f"{{{RECORDED}}}", "{{phase}}")]),
            panel("Recall, p5", "Share of dense attention's weight that one "
                  "in twenty sampled rows does not reach.", "percentunit",
                  [(quantile(0.05, "attention_recall_estimate_ratio",
                             "pattern"), "{{pattern}}")]),
            panel("Recall, mean", "Of sampled rows.", "percentunit",
                  [(mean("attention_recall_estimate_ratio", "pattern"),
                    "{{pattern}}")]),
            panel("Choosing blocks, share", "Of the time of attention: "
                  "sparsity's own price.", "percentunit",
                  [(share(("stage_busy_seconds_total", 'stage="selection"'),
                          ("stage_busy_seconds_total",
                           'stage=~"selection|attention"')), "selection")]),
            panel("Choosing blocks, time of a step", "Of steps that choose.",
                  "s", [(quantile(q, "pattern_selection_seconds", "phase"),
                         f"{text} {{{{phase}}}}") for q, text in
                        QUANTILES[:2]]),
        ]),
        ("Guard", [
            panel("States of plans", "Replicas whose quality guard holds a "
                  "plan in each state.", "short",
                  [(value("guard_plan_state", "plan, state"),
                    "{{plan}} {{state}}")]),
            panel("Demotions and promotions", "Plans taken out of use and in "
                  "again, within an hour.", "short",
                  [("sum by (plan, cause) (increase("
                    f"sparseserve_guard_demotions_total{{{MODEL}}}[1h]))",
                    "{{plan}} out, {{cause}}"),
                   ("sum by (plan) (increase("
                    f"sparseserve_guard_promotions_total{{{MODEL}}}[1h]))",
                    "{{plan}} in")]),
            panel("Sampled rows", "Rows whose recall the guard looks at.",
                  "cps", [(total("guard_sampled_rows_total"), "rows")]),
            panel("Slices run again", "Slices that ran densely once more, by "
                  "why.", "cps", [(total("guard_redone_slices_total", "cause"),
                                   "{{cause}}")]),
            panel("Shadow runs", "Dense runs beside requests, by what they "
                  "found.", "cps",
                  [(total(shadow, "plan, outcome"), "{{plan}} {{outcome}}")]),
            panel("Divergence", "Mean over shadow runs, in nats a token.",
                  "none",
                  [("{} / {}".format(
                      total("shadow_divergence_nats_total", "plan"),
                      total(shadow, "plan", 'outcome!="failed"')),
                    "{{plan}}")]),
            panel("Entropy of output", "Of the distributions that tokens are "
                  "drawn from, mean of a request, in nats: it moves if "
                  "quality does.", "none",
                  [(quantile(0.5, "output_entropy_nats"), "p50"),
                   (quantile(0.95, "output_entropy_nats"), "p95"),
                   (quantile(0.5, "output_entropy_nats", offset=WEEK),
                    "p50 a week ago")]),
        ]),
        ("Memory", [
            panel("Memory by owner", "What is held, by what for; the model "
                  "file is mapped and shared.", "bytes",
                  [(value("memory_bytes", "device, kind", where=PROCESS),
                    "{{device}} {{kind}}")], stacked=True),
            panel("Resident memory", "Against the least of physical memory "
                  "and control groups' limits.", "bytes",
                  [(f"process_resident_memory_bytes{{{PROCESS}}}",
                    "{{instance}}"),
                   (value("memory_limit_bytes", "instance, device",
                          where=PROCESS, how="max"),
                    "limit {{instance}} {{device}}")]),
            panel("KV pages", "By state; cached ones are given up when no "
                  "page is free.", "short",
                  [(value("kv_cache_pages", "tier, state"),
                    "{{tier}} {{state}}")], stacked=True),
            panel("KV pages in use", "Share, by model.", "percentunit",
                  [(value("model_kv_cache_usage_ratio", "model_name",
                          how="max"), "{{model_name}}")]),
            panel("Evicted pages", "Cached pages that gave way to others.",
                  "cps", [(total("kv_cache_evicted_pages_total", "tier"),
                           "{{tier}}")]),
            panel("Wasted tokens", "Computed for work that was given up.",
                  "cps", [(total("wasted_tokens_total", "cause"),
                           "{{cause}}")]),
        ])])


def gpu_and_host():
    def gpu(name, how="avg"):
        return [(f"{how} by (instance, gpu) ({name}{{{GPU}}})",
                 "{{instance}} {{gpu}}")]

    def process(name):
        return f"process_{name}{{{PROCESS}}}"

    return dashboard("hardware", "GPU and host", (
        "What the machines under the servers do. GPU figures are those of "
        "dcgm-exporter with its default counters."), [
        ("GPU", [
            panel("GPU busy", "Share of time in which any kernel ran.",
                  "percent", gpu("DCGM_FI_DEV_GPU_UTIL")),
            panel("Graphics engine active", "Share of cycles.", "percentunit",
                  gpu("DCGM_FI_PROF_GR_ENGINE_ACTIVE")),
            panel("Tensor cores active", "Share of cycles.", "percentunit",
                  gpu("DCGM_FI_PROF_PIPE_TENSOR_ACTIVE")),
            panel("Memory interface active", "Share of cycles: output is "
                  "bound by it.", "percentunit",
                  gpu("DCGM_FI_PROF_DRAM_ACTIVE")),
            panel("GPU memory", "Used and free.", "decmbytes",
                  [(f"sum by (instance, gpu) (DCGM_FI_DEV_FB_{state}{{{GPU}}})",
                    f"{{{{instance}}}} {{{{gpu}}}} {state.lower()}")
                   for state in ("USED", "FREE")], stacked=True),
            panel("PCIe", "Bytes sent and received.", "Bps",
                  [("sum by (instance, gpu) (DCGM_FI_PROF_PCIE_"
                    f"{way}_BYTES{{{GPU}}})",
                    f"{{{{instance}}}} {{{{gpu}}}} {way}")
                   for way in ("TX", "RX")]),
            panel("Power", "Drawn now.", "watt",
                  gpu("DCGM_FI_DEV_POWER_USAGE")),
            panel("Temperature", "Of the GPU.", "celsius",
                  gpu("DCGM_FI_DEV_GPU_TEMP")),
            panel("Clock", "Of the multiprocessors: it falls when power or "
                  "heat limit it, and everything gets slower.", "rotmhz",
                  gpu("DCGM_FI_DEV_SM_CLOCK")),
            panel("Faults", "Number of the last XID error; 0 is none.",
                  "none", gpu("DCGM_FI_DEV_XID_ERRORS", "max"), kind="stat"),
        ]),
        ("Host", [
            panel("CPU", "Cores that the server keeps busy.", "short",
                  [("sum by (instance) (rate("
                    f"{process('cpu_seconds_total')}[$__rate_interval]))",
                    "{{instance}}")]),
            panel("Memory of the host, share", "Resident over the limit; 90 % "
                  "alerts.", "percentunit",
                  [(f"{process('resident_memory_bytes')} / on (job, instance) "
                    "group_left () sparseserve_memory_limit_bytes{"
                    f'{PROCESS}, device="cpu"}}', "{{instance}}")]),
            panel("File descriptors", "Open, and the most there may be.",
                  "short", [(process("open_fds"), "{{instance}}"),
                            (process("max_fds"), "most {{instance}}")]),
            panel("Scrapes", "How long Prometheus waits for one.", "s",
                  [(f"scrape_duration_seconds{{{PROCESS}}}",
                    "{{instance}}")]),
            panel("Series", "Samples in a scrape.", "short",
                  [(f"scrape_samples_scraped{{{PROCESS}}}",
                    "{{instance}}")]),
        ]),
        ("Who may call", [
            panel("Callers refused", "By what was wrong with them.", "reqps",
                  [("sum by (reason) (rate(sparseserve_auth_failures_total"
                    f"{{{PROCESS}}}[$__rate_interval]))", "{{reason}}")]),
            panel("Files taken over", "Certificates, policies, tokens and keys "
                  "that were replaced: loaded, or refused and the old kept.",
                  "short",
                  [("sum by (file, outcome) (increase("
                    "sparseserve_security_file_reloads_total"
                    f"{{{PROCESS}}}[1h]))", "{{file}} {{outcome}}"),
                   ("sum by (outcome) (increase("
                    "sparseserve_tls_certificate_reloads_total"
                    f"{{{PROCESS}}}[1h]))", "certificate {{outcome}}")]),
        ])], [variable("gpu_job", "GPU job",
                       "label_values(DCGM_FI_DEV_GPU_UTIL, job)")])


def dashboards():
    return {
        "service-overview": service_overview(),
        "latency-regression": latency_regression(),
        "sparsity-and-memory": sparsity_and_memory(),
        "gpu-and-host": gpu_and_host(),
    }


def text_of(board):
    return json.dumps(board, indent=1, ensure_ascii=False) + "\n"


def main():
    if sys.argv[1:] not in ([], ["--check"]):
        sys.exit(__doc__)
    stale = []
    for name, board in dashboards().items():
        path = FOLDER / f"{name}.json"
        if sys.argv[1:]:
            if not path.exists() or path.read_text() != text_of(board):
                stale.append(path.name)
        else:
            path.write_text(text_of(board))
    if stale:
        sys.exit(f"Not what generate.py writes: {', '.join(stale)}")


if __name__ == "__main__":
    main()
