#!/usr/bin/env python3
"""Every overlay of deploy/kustomize against the schemas of Kubernetes and
against our own policies."""

import json
import pathlib
import re
import unittest

from manifests import (APPLIED, KUSTOMIZE, OVERLAYS, ROOT, SERVING, deployment,
                       flags, in_each, labels_of_pods, of_kind, pod_specs,
                       quantity, render, seconds, server)

import jsonschema  # installed by manifests
import kubernetes_validate
import yaml

from custom_resource_schemas import schema_of

# The oldest that knows the sleep of preStop, and what image volumes need.
OLDEST, WITH_IMAGE_VOLUMES, NEWEST = "1.30", "1.33", "1.34"
RESTRICTED_VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir",
                      "ephemeral", "image", "persistentVolumeClaim",
                      "projected", "secret"}


class ObjectsTest(unittest.TestCase):
    # What was found valid: most objects are the same in every overlay.
    valid = set()

    def validate(self, one, version):
        key = (json.dumps(one, sort_keys=True), version)
        if key not in self.valid:
            kubernetes_validate.validate(one, version, strict=True)
            self.valid.add(key)

    @in_each(APPLIED)
    def test_validates_strictly(self, folder):
        versions = {OLDEST, NEWEST}
        if any("image" in volume for _, spec in pod_specs(render(folder))
               for volume in spec.get("volumes", ())):
            versions = {WITH_IMAGE_VOLUMES, NEWEST}
        for one in render(folder):
            schema = schema_of(one)
            if schema is not None:
                jsonschema.validate(one, schema)
                continue
            for version in versions:
                self.validate(one, version)

    def test_containers_of_runtimes_are_kubernetes_own(self):
        for one in of_kind(render("kserve"), "ServingRuntime"):
            kubernetes_validate.validate(
                {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"},
                 "spec": {"containers": one["spec"]["containers"]}},
                OLDEST, strict=True)

    @in_each(APPLIED)
    def test_names_are_unique_and_in_one_namespace(self, folder):
        names = [(one["kind"], one["metadata"]["name"])
                 for one in render(folder)]
        self.assertEqual(len(names), len(set(names)))
        self.assertEqual(
            {one["metadata"].get("namespace") for one in render(folder)
             if one["kind"] != "Namespace"}, {"sparseserve"})

    @in_each(APPLIED)
    def test_pods_are_restricted(self, folder):
        for name, spec in pod_specs(render(folder)):
            pod = spec.get("securityContext", {})
            for container in (spec["containers"]
                              + spec.get("initContainers", [])):
                own = {**pod, **container["securityContext"]}
                self.assertIs(own["runAsNonRoot"], True, name)
                self.assertEqual(own["runAsUser"], 65532, name)
                self.assertIs(own["allowPrivilegeEscalation"], False, name)
                self.assertEqual(own["capabilities"], {"drop": ["ALL"]})
                self.assertEqual(own["seccompProfile"],
                                 {"type": "RuntimeDefault"}, name)
                needs_gpu = ("nvidia.com/gpu"
                             in container["resources"]["limits"])
                self.assertIs(own["readOnlyRootFilesystem"],
                              not needs_gpu, name)
            for field in ("hostNetwork", "hostPID", "hostIPC"):
                self.assertNotIn(field, spec)
            for volume in spec.get("volumes", ()):
                self.assertLessEqual(set(volume) - {"name"},
                                     RESTRICTED_VOLUMES)

    @in_each(OVERLAYS + ["model-store"])
    def test_namespaces_enforce_that(self, folder):
        namespace, = of_kind(render(folder), "Namespace")
        self.assertEqual(
            namespace["metadata"]["labels"]
            ["pod-security.kubernetes.io/enforce"], "restricted")

    @in_each(OVERLAYS + ["model-store"])
    def test_pods_get_no_token(self, folder):
        for name, spec in pod_specs(render(folder)):
            self.assertIs(spec["automountServiceAccountToken"], False,
                          name)

    @in_each(OVERLAYS + ["model-store"])
    def test_volumes_are_all_that_is_mounted(self, folder):
        for name, spec in pod_specs(render(folder)):
            mounted = {mount["name"] for container in
                       spec["containers"] + spec.get("initContainers", [])
                       for mount in container["volumeMounts"]}
            self.assertEqual(
                {volume["name"] for volume in spec["volumes"]}, mounted,
                name)

    @in_each(OVERLAYS)
    def test_what_pods_read_exists(self, folder):
        objects = render(folder)
        maps = {one["metadata"]["name"]: one["data"]
                for one in of_kind(objects, "ConfigMap")}
        secrets = {one["spec"]["secretName"]
                   for one in of_kind(objects, "Certificate")}
        for _, spec in pod_specs(objects):
            for volume in spec["volumes"]:
                if "configMap" in volume:
                    self.assertIn(volume["configMap"]["name"], maps)
                if "secret" in volume:
                    self.assertIn(volume["secret"]["secretName"], secrets)
            for container in (spec["containers"]
                              + spec.get("initContainers", [])):
                for source in container.get("envFrom", ()):
                    self.assertIn(source["configMapRef"]["name"], maps)
                for entry in container.get("env", ()):
                    reference = entry["valueFrom"].get("configMapKeyRef")
                    if reference is not None:
                        self.assertIn(reference["key"],
                                      maps[reference["name"]])

    @in_each(SERVING)
    def test_every_substituted_variable_is_defined(self, folder):
        container = server(folder)
        defined = {entry["name"] for entry in container.get("env", ())}
        used = set(re.findall(r"\$\((\w+)\)",
                              " ".join(container["args"])))
        self.assertEqual(used, defined)

    @in_each(APPLIED)
    def test_images_are_named_with_a_version(self, folder):
        for name, spec in pod_specs(render(folder)):
            for container in (spec["containers"]
                              + spec.get("initContainers", [])):
                tag = container["image"].rpartition(":")[2]
                self.assertNotIn(tag, ("latest", container["image"]), name)

class ReadmeTest(unittest.TestCase):
    def test_names_what_is_there(self):
        text = (ROOT / "deploy/README.md").read_text()
        for component in (KUSTOMIZE / "components").iterdir():
            self.assertIn(f"`{component.name}`", text)
        for path in re.findall(r"deploy/kustomize/[\w/.-]+\w", text):
            self.assertTrue((ROOT / path).exists(), path)
        for path in re.findall(r"`((?:components|overlays|base)/[\w/.-]+)`",
                               text):
            self.assertTrue((KUSTOMIZE / path).exists(), path)

    def test_every_component_is_rendered_somewhere(self):
        used = {pathlib.Path(component).name for folder in OVERLAYS
                for component in yaml.safe_load(
                    (KUSTOMIZE / folder / "kustomization.yaml").read_text())
                ["components"]}
        self.assertEqual(used, {path.name for path in
                                (KUSTOMIZE / "components").iterdir()})


class PortsTest(unittest.TestCase):
    @in_each(SERVING)
    def test_ports_are_those_of_the_flags(self, folder):
        container = server(folder)
        port_flag = {"grpc": "listen", "h2c": "listen",
                     "health": "health_listen",
                     "metrics": "metrics_listen"}
        for port in container["ports"]:
            host, _, number = flags(container)[
                port_flag[port["name"]]].rpartition(":")
            self.assertEqual(host, "0.0.0.0")
            self.assertEqual(port["containerPort"], int(number))

    @in_each(OVERLAYS)
    def test_administration_stays_in_the_pod(self, folder):
        container = server(folder)
        host, _, number = flags(container)["admin_listen"].rpartition(":")
        self.assertEqual(host, "127.0.0.1")
        self.assertNotIn(int(number), [port["containerPort"]
                                       for port in container["ports"]])

    @in_each(OVERLAYS)
    def test_services_offer_grpc_alone(self, folder):
        names = {port["name"]: port["containerPort"]
                 for port in server(folder)["ports"]}
        services = of_kind(render(folder), "Service")
        self.assertEqual(len(services), 2)
        for service in services:
            port, = service["spec"]["ports"]
            self.assertEqual(port["port"], names[port["targetPort"]])
            self.assertEqual(port["targetPort"], "grpc")

    @in_each(OVERLAYS)
    def test_plaintext_is_marked_as_such(self, folder):
        encrypted = "tls_certificate" in flags(server(folder))
        for service in of_kind(render(folder), "Service"):
            self.assertEqual(
                service["spec"]["ports"][0].get("appProtocol"),
                None if encrypted else "kubernetes.io/h2c")

    @in_each(OVERLAYS)
    def test_one_service_is_headless(self, folder):
        headless, = [service for service in
                     of_kind(render(folder), "Service")
                     if service["spec"].get("clusterIP") == "None"]
        self.assertIs(headless["spec"]["publishNotReadyAddresses"], False)

    @in_each(OVERLAYS)
    def test_named_ports_exist(self, folder):
        names = {port["name"] for port in server(folder)["ports"]}
        objects = render(folder)
        for policy in of_kind(objects, "NetworkPolicy"):
            for rule in policy["spec"].get("ingress", ()):
                for port in rule["ports"]:
                    self.assertIn(port["port"], names)
        for monitor in of_kind(objects, "PodMonitor"):
            for endpoint in monitor["spec"]["podMetricsEndpoints"]:
                self.assertEqual(endpoint["port"], "metrics")

    def test_routes_lead_to_a_port_of_a_service(self):
        found = 0
        for folder in OVERLAYS:
            objects = render(folder)
            services = {service["metadata"]["name"]:
                        {port["port"] for port in service["spec"]["ports"]}
                        for service in of_kind(objects, "Service")}
            for route in of_kind(objects, "GRPCRoute"):
                for rule in route["spec"]["rules"]:
                    for backend in rule["backendRefs"]:
                        found += 1
                        self.assertIn(backend["port"],
                                      services[backend["name"]])
            for pool in of_kind(objects, "InferencePool"):
                found += 1
                self.assertEqual(
                    [port["number"] for port in pool["spec"]["targetPorts"]],
                    [9000])
        self.assertEqual(found, 2)

class LifeTest(unittest.TestCase):
    @in_each(SERVING)
    def test_probes_ask_the_health_port(self, folder):
        container = server(folder)
        health = int(flags(container)["health_listen"].rpartition(":")[2])
        for probe, service in (("startupProbe", "readiness"),
                               ("readinessProbe", "readiness"),
                               ("livenessProbe", "liveness")):
            self.assertEqual(container[probe]["grpc"],
                             {"port": health, "service": service})
        # A model that loads slowly must not be killed for it, nor one
        # turn that takes long.
        startup = container["startupProbe"]
        self.assertGreaterEqual(
            startup["periodSeconds"] * startup["failureThreshold"], 600)
        liveness = container["livenessProbe"]
        self.assertGreaterEqual(
            liveness["periodSeconds"] * liveness["failureThreshold"], 60)

    @in_each(OVERLAYS)
    def test_rollouts_wait_longer_than_a_start_may_take(self, folder):
        startup = server(folder)["startupProbe"]
        spec = deployment(folder)["spec"]
        self.assertGreater(
            spec["progressDeadlineSeconds"],
            startup["periodSeconds"] * startup["failureThreshold"]
            + spec["minReadySeconds"])

    @in_each(OVERLAYS)
    def test_rollouts_never_lose_capacity(self, folder):
        self.assertEqual(
            deployment(folder)["spec"]["strategy"],
            {"type": "RollingUpdate",
             "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}})

    def grace(self, folder):
        if folder == "kserve":
            service, = of_kind(render(folder), "InferenceService")
            return service["spec"]["predictor"]["terminationGracePeriodSeconds"]
        return deployment(folder)["spec"]["template"]["spec"][
            "terminationGracePeriodSeconds"]

    @in_each(SERVING)
    def test_pods_have_time_to_drain(self, folder):
        container = server(folder)
        pre_stop = container["lifecycle"]["preStop"]["sleep"]["seconds"]
        self.assertGreaterEqual(pre_stop, 10)
        self.assertGreaterEqual(
            self.grace(folder),
            pre_stop + seconds(flags(container)["drain_timeout"]) + 10)

    @in_each(OVERLAYS)
    def test_drains_outlast_what_callers_may_ask_by_default(self, folder):
        settings, = [one["data"]["server.textproto"] for one in
                     of_kind(render(folder), "ConfigMap")
                     if "server.textproto" in one["data"]]
        deadline = re.search(r"default_deadline \{ seconds: (\d+) \}",
                             settings).group(1)
        self.assertLessEqual(
            int(deadline),
            seconds(flags(server(folder))["drain_timeout"]))

    @in_each(SERVING)
    def test_memory_is_promised_and_cores_are_counted(self, folder):
        resources = server(folder)["resources"]
        self.assertEqual(resources["requests"]["memory"],
                         resources["limits"]["memory"])
        self.assertGreaterEqual(quantity(resources["requests"]["cpu"]), 1)
        # Throttled threads would hold up those that wait for them.
        self.assertNotIn("cpu", resources["limits"])
        self.assertNotIn("nvidia.com/gpu", resources["requests"])

    @in_each(OVERLAYS)
    def test_keys_and_values_leave_room_for_the_model(self, folder):
        container = server(folder)
        size = flags(container).get("kv_cache_bytes")
        if flags(container)["device"] == "cuda":
            self.assertIsNone(size)
            self.assertEqual(
                container["resources"]["limits"]["nvidia.com/gpu"], "1")
        else:
            self.assertLess(
                quantity(size),
                quantity(container["resources"]["limits"]["memory"]) / 2)


class SelectorsTest(unittest.TestCase):
    @in_each(OVERLAYS)
    def test_selectors_match_the_pods(self, folder):
        pods = labels_of_pods(folder).items()
        found = 0
        for one in render(folder):
            spec = one.get("spec", {})
            if one["kind"] == "Service":
                chosen = [spec["selector"]]
            elif one["kind"] == "NetworkPolicy":
                chosen = [spec["podSelector"]["matchLabels"]]
            elif one["kind"] == "Deployment":
                chosen = [spec["selector"]["matchLabels"]] + [
                    constraint["labelSelector"]["matchLabels"]
                    for constraint in spec["template"]["spec"]
                    ["topologySpreadConstraints"]]
            elif one["kind"] in ("PodDisruptionBudget", "PodMonitor",
                                 "InferencePool"):
                chosen = [spec["selector"]["matchLabels"]]
            else:
                continue
            for labels in chosen:
                found += 1
                self.assertLessEqual(labels.items(), pods, one["kind"])
        self.assertGreaterEqual(found, 7)

    def test_scrapes_are_a_job_of_the_name_that_alerts_look_for(self):
        monitor, = of_kind(render("overlays/monitoring"), "PodMonitor")
        labels = labels_of_pods("overlays/monitoring")
        self.assertIn("sparseserve", labels[monitor["spec"]["jobLabel"]])

    @in_each(OVERLAYS)
    def test_disruptions_take_one_at_a_time(self, folder):
        budget, = of_kind(render(folder), "PodDisruptionBudget")
        self.assertEqual(budget["spec"]["maxUnavailable"], 1)

    @in_each(OVERLAYS)
    def test_network_policies_close_both_directions(self, folder):
        base, = [policy for policy in
                 of_kind(render(folder), "NetworkPolicy")
                 if policy["metadata"]["name"] == "sparseserve"]
        self.assertEqual(base["spec"]["policyTypes"],
                         ["Ingress", "Egress"])
        for policy in of_kind(render(folder), "NetworkPolicy"):
            for rule in policy["spec"].get("ingress", ()):
                ports = {port["port"] for port in rule["ports"]}
                if "from" not in rule:
                    self.assertEqual(ports, {"health"})


class ScalingTest(unittest.TestCase):
    def scalers(self, folder):
        return of_kind(render(folder), "HorizontalPodAutoscaler",
                       "ScaledObject")

    def test_one_at_most_decides_how_many(self):
        scaled = 0
        for folder in OVERLAYS:
            scalers = self.scalers(folder)
            self.assertLessEqual(len(scalers), 1)
            spec = deployment(folder)["spec"]
            self.assertEqual("replicas" in spec, not scalers)
            for scaler in scalers:
                scaled += 1
                self.assertEqual(scaler["spec"]["scaleTargetRef"]["name"],
                                 deployment(folder)["metadata"]["name"])
        self.assertEqual(scaled, 3)

    @in_each(OVERLAYS)
    def test_there_are_two_at_least(self, folder):
        least = [scaler["spec"].get("minReplicas",
                                    scaler["spec"].get("minReplicaCount"))
                 for scaler in self.scalers(folder)]
        least += [spec["replicas"] for spec in
                  [deployment(folder)["spec"]] if "replicas" in spec]
        self.assertGreaterEqual(min(least), 2)

    @in_each(OVERLAYS)
    def test_pods_are_taken_away_slowly(self, folder):
        for scaler in self.scalers(folder):
            behavior = scaler["spec"].get("behavior") or scaler["spec"][
                "advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
            self.assertGreaterEqual(
                behavior["scaleDown"]["stabilizationWindowSeconds"], 300)

    def test_autoscaler_and_adapter_agree(self):
        scaler, = of_kind(render("overlays/hpa"), "HorizontalPodAutoscaler")
        rules = yaml.safe_load(
            (KUSTOMIZE / "components/hpa/prometheus-adapter-rules.yaml")
            .read_text())
        self.assertEqual(
            {metric["pods"]["metric"]["name"]
             for metric in scaler["spec"]["metrics"]},
            {rule["seriesQuery"].split("{")[0] for rule in rules})

    def test_missing_metrics_are_no_zeros(self):
        for trigger in of_kind(render("overlays/keda"),
                               "ScaledObject")[0]["spec"]["triggers"]:
            self.assertEqual(trigger["metadata"]["ignoreNullValues"], "false")
            self.assertRegex(trigger["metadata"]["query"], r"^(sum|max)\(")


if __name__ == "__main__":
    unittest.main()
