#!/usr/bin/env python3
"""Every alert of deploy/prometheus, in worlds where it fires and where it stays
silent, run by `promtool test rules`: thresholds, `for:` and comparisons with
yesterday and last week. Also what alerts carry, and the runbook.

In a world several jobs are served side by side, each with its own trouble; what
fires at the end has to be exactly what each job expects, and the quiet ones must
not even have come near.
"""

import json
import math
import pathlib
import re
import subprocess
import tempfile
import unittest

import yaml

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
RULES = ROOT / "deploy" / "prometheus"
RUNBOOK = ROOT / "deploy" / "runbook.md"
FILES = sorted(RULES.glob("*.rules.yml"))
MINUTE, HOUR, DAY = 60, 3600, 86400


def groups_of(file):
    return yaml.safe_load(file.read_text())["groups"]


def rules_of(file):
    return [rule for group in groups_of(file) for rule in group["rules"]]


def alerts():
    return [rule for file in FILES for rule in rules_of(file)
            if "alert" in rule]


def seconds(text):
    units = {"s": 1, "m": MINUTE, "h": HOUR, "d": DAY}
    return int(text[:-1]) * units[text[-1]] if text else 0


class World:
    """Series over `length` seconds, one sample every `interval`; rules are
    evaluated as often, or every `evaluation` seconds."""

    def __init__(self, files, interval, length, evaluation=None):
        self.files, self.interval, self.length = files, interval, length
        self.evaluation = evaluation or interval
        self.series, self.expected, self.quiet = [], {}, []

    def job(self, name, *alertnames):
        """A job and how many times each alert fires in it at the end."""
        job = f"sparseserve-{name}"
        counts = {a: alertnames.count(a) for a in alertnames}
        self.expected.update({(a, job): n for a, n in counts.items()})
        if not alertnames:
            self.quiet.append(job)
        return Job(self, job)

    def times(self):
        return range(0, self.length + 1, self.interval)

    def add(self, name, labels, values):
        text = ",".join(f'{key}="{value}"' for key, value in labels.items())
        self.series.append({
            "series": f"{name}{{{text}}}",
            "values": " ".join("_" if value is None else f"{value:.10g}"
                               for value in values)})

    def pending(self, alertname):
        """Evaluations before one that fires."""
        (rule,) = [rule for rule in alerts() if rule["alert"] == alertname]
        return math.ceil(seconds(rule.get("for")) / self.evaluation)

    def check(self):
        end = f"{self.length}s"

        def labels(alert, job):
            return f'alertname="{alert}"' + (f', job="{job}"' if job else "")

        expressions = [
            ("count by (alertname, job) (ALERTS{alertstate='firing'})",
             [{"labels": f"{{{labels(*pair)}}}", "value": count}
              for pair, count in self.expected.items()])]
        for pair in self.expected:
            waited = self.pending(pair[0])
            expressions.append((
                "max(count_over_time(ALERTS{alertstate='pending', "
                f"{labels(*pair)}}}[{end}]))",
                [{"labels": "{}", "value": waited}] if waited else []))
        for job in self.quiet:
            expressions.append(
                (f"count_over_time(ALERTS{{job='{job}'}}[{end}])", []))
        paths = [RULES / f"{file}.rules.yml" for file in self.files]
        test = {
            "rule_files": [str(path) for path in paths],
            # What records before what looks at it.
            "group_eval_order": [group["name"] for path in paths
                                 for group in groups_of(path)],
            "evaluation_interval": f"{self.evaluation}s",
            "tests": [{
                "interval": f"{self.interval}s",
                "input_series": self.series,
                "promql_expr_test": [
                    {"expr": expression, "eval_time": end, "exp_samples": found}
                    for expression, found in expressions]}]}
        with tempfile.NamedTemporaryFile("w", suffix=".yml") as file:
            json.dump(test, file)
            file.flush()
            done = subprocess.run(["promtool", "test", "rules", file.name],
                                  capture_output=True, text=True)
        return done.stdout + done.stderr if done.returncode else ""


class Job:
    def __init__(self, world, name):
        self.world, self.name = world, name

    def labels(self, labels):
        return {"job": self.name, "instance": f"{self.name}:9090", **labels}

    def gauge(self, name, value, **labels):
        """`value` is a number, or a function of the time."""
        at = value if callable(value) else lambda time: value
        self.world.add(name, self.labels(labels),
                       [at(time) for time in self.world.times()])

    def counter(self, name, rate, **labels):
        """`rate` a second, a number or a function of the time."""
        at = rate if callable(rate) else lambda time: rate
        values, total = [], 0.0
        for time in self.world.times():
            if time:
                total += at(time) * self.world.interval
            values.append(total)
        self.world.add(name, self.labels(labels), values)

    def histogram(self, name, rate, where, bounds, **labels):
        """All of `rate` observations a second fall below the bound `where`,
        and above the one before."""
        at = where if callable(where) else lambda time: where
        speed = rate if callable(rate) else lambda time: rate
        for bound in bounds:
            self.counter(f"{name}_bucket",
                         lambda time: speed(time) * (at(time) <= bound),
                         le=f"{bound:g}", **labels)
        self.counter(f"{name}_bucket", speed, le="+Inf", **labels)
        self.counter(f"{name}_count", speed, **labels)


class Histograms:
    SECONDS = (.01, .02, .05, .1, .25, .5, 1, 2.5, 5)

    @classmethod
    def first_tokens(cls, job, rate, where, **labels):
        job.histogram("sparseserve_time_to_first_token_seconds", rate, where,
                      cls.SECONDS,
                      **{"model_name": "m", "prompt_class": "le_1k", **labels})

    @classmethod
    def answers(cls, job, rate, where, **labels):
        job.histogram("sparseserve_time_per_output_token_seconds", rate, where,
                      cls.SECONDS, **{"model_name": "m", **labels})


class AlertRulesTest(unittest.TestCase):
    maxDiff = None
    fired, quiet = set(), set()

    def check(self, world):
        self.assertEqual(world.check(), "")
        if world.quiet:
            files = [RULES / f"{file}.rules.yml" for file in world.files]
            self.quiet.update(rule["alert"] for file in files
                              for rule in rules_of(file) if "alert" in rule)
        self.fired.update(alert for alert, _ in world.expected)

    def test_burn_rates(self):
        world = World(["objectives"], 5 * MINUTE, 3 * DAY + 6 * HOUR,
                      evaluation=15 * MINUTE)
        end = world.length
        # Which share is bad since when, in shares of the budget.
        troubles = {
            "even": (lambda time: 0.5, ()),
            "fast": (lambda time: 30 * (time > end - HOUR), ("FastBurn",)),
            "six-hours": (lambda time: 10 * (time > end - 6 * HOUR), ("Burn",)),
            "days": (lambda time: 2, ("SlowBurn",)),
        }
        for objective in ("TimeToFirstToken", "TimePerOutputToken",
                          "Availability"):
            for name, (share, kinds) in troubles.items():
                job = world.job(
                    f"{objective.lower()}-{name}",
                    *(f"Sparseserve{objective}{kind}" for kind in kinds))
                self.serve(job, objective, share, 1)
            # Where there is hardly a request, each one is a large share.
            job = world.job(f"{objective.lower()}-idle")
            self.serve(job, objective, lambda time: 30, 0.005)
        self.check(world)

    @staticmethod
    def serve(job, objective, share, rate):
        if objective == "Availability":
            job.counter("sparseserve_requests_cancelled_total", 0,
                        model_name="m", stage="queue", cause="deadline")
            for status, of in (
                    ("OK", lambda time: 1 - 0.001 * share(time)),
                    ("UNAVAILABLE", lambda time: 0.001 * share(time)),
                    # The caller's own.
                    ("INVALID_ARGUMENT", lambda time: 1)):
                job.counter(
                    "sparseserve_grpc_server_call_duration_seconds_count",
                    lambda time, of=of: rate * of(time), grpc_status=status,
                    grpc_method="sparseserve.v1.InferenceService/Generate")
            return
        name, bound, labels = {
            "TimeToFirstToken": ("time_to_first_token_seconds", "2.5",
                                 {"prompt_class": "le_4k"}),
            "TimePerOutputToken": ("time_per_output_token_seconds", "0.05", {}),
        }[objective]
        job.counter(f"sparseserve_{name}_bucket",
                    lambda time: rate * (1 - 0.01 * share(time)),
                    le=bound, model_name="m", **labels)
        job.counter(f"sparseserve_{name}_count", rate, model_name="m", **labels)

    def test_requests_that_wait_beyond_their_deadline_are_not_available(self):
        world = World(["objectives"], MINUTE, 2 * HOUR)
        # All windows are as young as the trouble.
        job = world.job("queue", "SparseserveAvailabilityFastBurn",
                        "SparseserveAvailabilityBurn",
                        "SparseserveAvailabilitySlowBurn")
        self.serve(job, "Availability", lambda time: 0, 1)
        world.series.pop(0)
        job.counter("sparseserve_requests_cancelled_total", 0.1,
                    model_name="m", stage="queue", cause="deadline")
        self.check(world)

    def test_slower_than_yesterday_and_last_week(self):
        world = World(["regression"], 5 * MINUTE, 7 * DAY + 3 * HOUR,
                      evaluation=15 * MINUTE)
        end = world.length

        def slow_since(begin):
            return lambda time: .5 if time > begin else .1

        def slow_but_yesterday(time):
            return .1 if end - 2 * DAY < time < end - 12 * HOUR else .5

        def long_prompts(time):
            return 1 if time < end - 2 * HOUR else 9

        for name, histogram in (("TimeToFirstToken", Histograms.first_tokens),
                                ("TimePerOutputToken", Histograms.answers)):
            def job(trouble, *kinds):
                return world.job(f"{name.lower()}-{trouble}",
                                 *(f"Sparseserve{name}{kind}"
                                   for kind in kinds))
            histogram(job("same"), 1, .1)
            histogram(job("faster"), 1,
                      lambda time: .5 if time < end - 2 * HOUR else .1)
            histogram(job("busier"),
                      lambda time: 1 if time < end - 2 * HOUR else 5, .1)
            histogram(job("idle"), 0.01, slow_since(end - 2 * HOUR))
            histogram(job("new"), lambda time: time > end - 5 * HOUR,
                      slow_since(end - 2 * HOUR))
            histogram(job("now", "AboveYesterday", "AboveLastWeek",
                          "Regressed"), 1, slow_since(end - 2 * HOUR))
            histogram(job("days-ago", "AboveLastWeek"), 1,
                      slow_since(end - 3 * DAY))
            histogram(job("as-last-week", "AboveYesterday"), 1,
                      slow_but_yesterday)
        mix = world.job("longer-prompts")
        Histograms.first_tokens(mix, 1, .1)
        Histograms.first_tokens(mix, long_prompts, 2.5, prompt_class="le_16k")
        self.check(world)

    def test_a_new_version_beside_an_old_one(self):
        world = World(["regression"], MINUTE, HOUR)

        def versions(job, old, new, rate=1):
            for version, start, where, speed in (("1", 100, old, 1),
                                                 ("2", 900, new, rate)):
                at = {"instance": f"{job.name}-{version}"}
                Histograms.first_tokens(job, speed, where, **at)
                Histograms.answers(job, speed, where, **at)
                job.gauge("process_start_time_seconds", start, **at)
                job.gauge("sparseserve_build_info", 1, version=version, **at)

        versions(world.job("same"), .1, .1)
        versions(world.job("better"), .5, .1)
        versions(world.job("idle"), .1, .5, rate=0.01)
        versions(world.job("worse", "SparseserveCanaryTimeToFirstToken",
                           "SparseserveCanaryTimePerOutputToken"), .1, .5)
        self.check(world)

    def test_work_that_costs_more_than_last_week(self):
        world = World(["efficiency"], 5 * MINUTE, 7 * DAY + 3 * HOUR,
                      evaluation=15 * MINUTE)
        changed = world.length - 2 * HOUR

        def serve(job, load=1, attention=1, mlp=1, sampling=1, step=1, batch=1,
                  outputs=1):
            """What each is multiplied with of late."""
            def later(value, factor):
                return lambda time: value * (factor if time > changed else 1)

            labels = {"model_name": "m"}
            job.counter("sparseserve_prompt_tokens_total", later(50, load),
                        source="computed", **labels)
            job.counter("sparseserve_generation_tokens_total", later(50, load),
                        **labels)
            for stage, time, factor in (("attention", .1, attention),
                                        ("mlp", .1, mlp),
                                        ("sampling", .002, sampling)):
                job.counter("sparseserve_stage_busy_seconds_total",
                            later(time, load * factor), stage=stage, **labels)
            job.counter("sparseserve_attention_blocks_total", later(900, load),
                        phase="prefill", outcome="computed", **labels)
            job.counter("sparseserve_attention_blocks_total",
                        later(100, load * outputs), phase="decode",
                        outcome="computed", **labels)
            for phase in ("prefill", "decode"):
                job.counter("sparseserve_batch_tokens_sum",
                            later(50, load * batch), phase=phase, **labels)
                job.counter("sparseserve_batch_tokens_count", later(5, load),
                            phase=phase, **labels)
                job.counter("sparseserve_engine_step_seconds_sum",
                            later(.5, load * step), phase=phase, **labels)
                job.counter("sparseserve_engine_step_seconds_count",
                            later(5, load), phase=phase, **labels)

        serve(world.job("same"))
        serve(world.job("five-times-the-load"), load=5)
        serve(world.job("attention", "SparseserveAttentionSlower"),
              attention=1.5)
        serve(world.job("attention-for-more-output"), attention=1.5, outputs=9)
        serve(world.job("stage", "SparseserveStageSlower"), mlp=1.5)
        serve(world.job("stage-that-hardly-counts"), sampling=2)
        serve(world.job("stage-in-smaller-batches"), mlp=1.5, batch=.5)
        serve(world.job("steps", "SparseserveStepSlower",
                        "SparseserveStepSlower"), step=1.5)
        serve(world.job("steps-that-carry-more"), step=1.5, batch=1.5)
        serve(world.job("idle"), load=0.001, attention=2, mlp=2, step=2)
        self.check(world)

    def test_density_that_drifts(self):
        world = World(["sparsity"], 5 * MINUTE, 7 * DAY + 3 * HOUR,
                      evaluation=15 * MINUTE)
        changed = world.length - 2 * HOUR

        def serve(job, later, rate=1):
            for outcome, sign in (("computed", 1), ("skipped", -1)):
                job.counter("sparseserve_attention_blocks_total",
                            lambda time: (outcome == "skipped") + sign *
                            (later if time > changed else .2),
                            phase="prefill", outcome=outcome, model_name="m")
            job.counter("sparseserve_attention_density_ratio_count", rate,
                        phase="prefill", model_name="m")

        serve(world.job("same"), .2)
        serve(world.job("a-little"), .25)
        serve(world.job("denser", "SparseserveDensityDrift"), .6)
        serve(world.job("idle"), .6, rate=0.01)
        self.check(world)

    def test_sparsity(self):
        world = World(["sparsity"], MINUTE, 7 * HOUR)

        def serve(job, fallback=0.0, asked=0.0, kept=.95, samples=2.0,
                  demoted=False, above=0.0, beyond=0.0, few=1.0):
            model = {"model_name": "m"}
            job.counter("sparseserve_attention_density_ratio_count", 1,
                        phase="prefill", **model)
            for reason, share in (("low_recall", fallback),
                                  ("request_override", asked)):
                job.counter("sparseserve_sparse_fallbacks_total", share,
                            phase="prefill", reason=reason, **model)
            job.histogram("sparseserve_attention_recall_estimate_ratio",
                          samples, kept, (.3, .5, .7, .9, .95, 1),
                          pattern="quest", **model)
            job.gauge("sparseserve_guard_demotions_total",
                      lambda time: int(demoted and time > 6.5 * HOUR),
                      plan="fast", cause="recall", **model)
            for outcome, share in (("within", 1 - above), ("above", above),
                                   ("failed", 1)):
                job.counter("sparseserve_shadow_runs_total", few * share / 60,
                            plan="fast", outcome=outcome, **model)
            for outcome, share in (("within_p50", 1 - beyond),
                                   ("within_p95", 0), ("beyond", beyond)):
                job.counter("sparseserve_predictions_total", few * share,
                            quantity="time_to_first_token", outcome=outcome,
                            **model)

        serve(world.job("well"), fallback=.1, above=.05, beyond=.05)
        serve(world.job("asked"), asked=.9)
        serve(world.job("falls-back", "SparseserveFallbackShare"), fallback=.4)
        serve(world.job("loses", "SparseserveRecallFloor"), kept=.3)
        serve(world.job("loses-few"), kept=.3, samples=.1)
        serve(world.job("demotes", "SparseserveGuardDemotion"), demoted=True)
        serve(world.job("diverges", "SparseserveShadowDivergence"), above=.3)
        serve(world.job("guesses", "SparseservePredictionsMiss"), beyond=.5)
        serve(world.job("few"), above=.5, beyond=.5, few=.01)
        self.check(world)

    def test_saturation(self):
        world = World(["saturation"], MINUTE, 2 * HOUR)
        since = HOUR

        def late(value, before=0.0):
            return lambda time: value if time > since else before

        def serve(job, usage=.5, waiting=3, refused=0.0, preempted=0.0,
                  unread=0.0, missed=0.0, targets=1.0, resident=5.0, fds=50):
            model = {"model_name": "m"}
            job.gauge("sparseserve_kv_cache_usage_ratio", late(usage, .5))
            job.gauge("sparseserve_requests_waiting", late(waiting))
            job.counter("sparseserve_requests_finished_total", 1,
                        operation="generate", finish_reason="stop", **model)
            for reason, rate in (("queue_full", refused), ("quota", 1)):
                job.counter("sparseserve_requests_rejected_total", late(rate),
                            reason=reason, **model)
            job.counter("sparseserve_preemptions_total", late(preempted),
                        mode="recompute", **model)
            for cause, rate in (("slow_consumer", unread), ("client", 1)):
                job.counter("sparseserve_requests_cancelled_total", late(rate),
                            stage="write", cause=cause, **model)
            for outcome, share in (("missed", missed), ("met", 1 - missed)):
                job.counter("sparseserve_latency_targets_total",
                            late(targets * share), target="total",
                            outcome=outcome, **model)
            job.gauge("process_resident_memory_bytes", late(resident, 5))
            job.gauge("sparseserve_memory_limit_bytes", 10, device="cpu")
            job.gauge("process_open_fds", late(fds, 50))
            job.gauge("process_max_fds", 100)

        serve(world.job("well"), usage=.85, waiting=10, missed=.05, unread=.003)
        serve(world.job("pages", "SparseserveKvCacheFull"), usage=.95)
        serve(world.job("queue", "SparseserveRequestsWaiting"), waiting=40)
        serve(world.job("refuses", "SparseserveRequestsRefused"), refused=.5)
        serve(world.job("preempts", "SparseservePreemptions"), preempted=.1)
        serve(world.job("unread", "SparseserveSlowConsumers"), unread=.1)
        serve(world.job("late", "SparseserveTargetsMissed"), missed=.3)
        serve(world.job("late-few"), missed=.5, targets=.01)
        serve(world.job("memory", "SparseserveMemoryShort"), resident=9.5)
        serve(world.job("descriptors", "SparseserveFileDescriptorsShort"),
              fds=90)
        self.check(world)

    def test_presence(self):
        world = World(["presence"], MINUTE, 3 * HOUR)
        since = 2 * HOUR

        def serve(job, up=1, ready=lambda time: 1, draining=0,
                  start=lambda time: 5, clamped=0, fault=0):
            job.gauge("up", up if callable(up) else lambda time: up)
            job.gauge("sparseserve_build_info", 1, version="1")
            job.gauge("sparseserve_model_ready", ready, model_name="m")
            job.gauge("sparseserve_server_draining", draining)
            job.gauge("process_start_time_seconds", start)
            job.gauge("sparseserve_metrics_clamped_total",
                      lambda time: clamped * (time > since))
            job.gauge("DCGM_FI_DEV_XID_ERRORS",
                      lambda time: fault * (time > since), gpu="0")

        serve(world.job("well"))
        serve(world.job("restarted"),
              start=lambda time: 5 if time < since else 9)
        serve(world.job("drains"), ready=lambda time: time < since, draining=1)
        serve(world.job("gone", "SparseserveDown"),
              up=lambda time: int(time < since))
        serve(world.job("stuck", "SparseserveNotReady"),
              ready=lambda time: int(time < since))
        serve(world.job("flaps", "SparseserveFlapping"),
              ready=lambda time: int(time < since or time // 120 % 2))
        serve(world.job("restarts", "SparseserveFlapping"),
              start=lambda time: 5 + max(0, (time - since) // 600))
        serve(world.job("clamps", "SparseserveMeasurementsClamped"), clamped=3)
        serve(world.job("faults", "SparseserveGpuFault"), fault=79)
        self.check(world)

    def test_absence(self):
        world = World(["presence"], MINUTE, 20 * MINUTE)
        world.expected[("SparseserveAbsent", "")] = 1
        world.add("sparseserve_build_info", {"version": "1"},
                  [1 if time < 5 * MINUTE else None for time in world.times()])
        self.check(world)

    def test_certificates(self):
        world = World(["certificates"], 5 * MINUTE, 6 * HOUR)
        for name, days, alertnames in (
                ("new", 90, ()), ("week", 8, ()),
                ("soon", 4, ("SparseserveCertificateExpires",)),
                ("gone", .5, ("SparseserveCertificateExpires",
                              "SparseserveCertificateExpired"))):
            world.job(name, *alertnames).gauge(
                "sparseserve_tls_certificate_expiry_timestamp_seconds",
                days * DAY)
        self.check(world)


class RuleFilesTest(unittest.TestCase):
    def test_promtool_finds_nothing_to_say(self):
        done = subprocess.run(
            ["promtool", "check", "rules", "--lint=all", "--lint-fatal",
             *FILES], capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_example_config_names_all_files(self):
        done = subprocess.run(
            ["promtool", "check", "config", RULES / "prometheus.yml"],
            capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        config = yaml.safe_load((RULES / "prometheus.yml").read_text())
        self.assertEqual(sorted(config["rule_files"]),
                         [file.name for file in FILES])

    def test_alerts_say_how_bad_it_is_and_what_it_means(self):
        names = [rule["alert"] for rule in alerts()]
        self.assertGreater(len(names), 30)
        self.assertEqual(len(names), len(set(names)))
        for rule in alerts():
            with self.subTest(rule["alert"]):
                self.assertIn(rule["labels"]["severity"], ("page", "ticket"))
                for key in ("summary", "description", "runbook"):
                    self.assertTrue(rule["annotations"][key].strip())

    def test_runbook_and_alerts_lead_to_each_other(self):
        text = RUNBOOK.read_text()
        sections = dict(re.findall(
            r"(?ms)^## (Sparseserve\w+)\n(.*?)(?=^#|\Z)", text))
        self.assertEqual(sorted(sections),
                         sorted(rule["alert"] for rule in alerts()))
        for rule in alerts():
            self.assertEqual(rule["annotations"]["runbook"],
                             f"deploy/runbook.md#{rule['alert'].lower()}")
        for name, section in sections.items():
            for part in ("Means", "Look at", "Do"):
                self.assertIn(f"\n**{part}:** ", f"\n{section}", name)

    def test_recorded_series_are_used(self):
        recorded = {rule["record"] for file in FILES for rule in rules_of(file)
                    if "record" in rule}
        used = "".join(rule["expr"] for file in FILES
                       for rule in rules_of(file))
        used += "".join(file.read_text() for file in
                        (ROOT / "deploy" / "dashboards").glob("*.json"))
        for name in recorded:
            self.assertRegex(used, rf"{re.escape(name)}\b")


def load_tests(loader, tests, pattern):
    suite = unittest.TestSuite(tests)

    class EveryAlertTest(unittest.TestCase):
        """Last: what the worlds above have shown."""

        def test_every_alert_fired_and_was_silent(self):
            names = {rule["alert"] for rule in alerts()}
            self.assertEqual(AlertRulesTest.fired, names)
            self.assertEqual(AlertRulesTest.quiet, names)
            print(f"{len(names)} alerts, each fired and silent")

    suite.addTests(loader.loadTestsFromTestCase(EveryAlertTest))
    return suite


if __name__ == "__main__":
    unittest.main()
