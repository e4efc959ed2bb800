"""Shapes of the objects that other projects define, as far as we use them: a
field that is not here is a mistake or has yet to be looked up."""

TEXT = {"type": "string", "minLength": 1}
PORT = {"type": "integer", "minimum": 1, "maximum": 65535}
COUNT = {"type": "integer", "minimum": 0}
FLAG = {"type": "boolean"}
DURATION = {"type": "string", "pattern": r"^([0-9]+(ms|s|m|h))+$"}
TEXTS = {"type": "array", "items": TEXT, "minItems": 1}
BY_NAME = {"type": "object", "additionalProperties": {"type": "string"}}


def shape(required=(), **fields):
    return {"type": "object", "properties": fields,
            "required": list(required), "additionalProperties": False}


def some(item):
    return {"type": "array", "items": item, "minItems": 1}


def one_of(*values):
    return {"enum": list(values)}


MATCH_LABELS = shape(["matchLabels"], matchLabels=BY_NAME)
ISSUER_REFERENCE = shape(["name"], name=TEXT,
                         kind=one_of("Issuer", "ClusterIssuer"),
                         group=one_of("cert-manager.io"))
PARENT_REFERENCE = shape(["name"], name=TEXT, namespace=TEXT,
                         sectionName=TEXT)
CERTIFICATE = shape(
    ["secretName", "issuerRef"], isCA=FLAG, commonName=TEXT, secretName=TEXT,
    duration=DURATION, renewBefore=DURATION, dnsNames=TEXTS, uris=TEXTS,
    usages=some(one_of("server auth", "client auth")),
    privateKey=shape(algorithm=one_of("ECDSA", "RSA", "Ed25519"), size=COUNT,
                     rotationPolicy=one_of("Always", "Never")),
    issuerRef=ISSUER_REFERENCE)
ISSUER = shape(selfSigned=shape(), ca=shape(["secretName"], secretName=TEXT))
POD_MONITOR = shape(
    ["selector", "podMetricsEndpoints"], jobLabel=TEXT, selector=MATCH_LABELS,
    podTargetLabels=TEXTS,
    podMetricsEndpoints=some(shape(
        ["port"], port=TEXT, path=TEXT, interval=DURATION,
        scrapeTimeout=DURATION)))
RULE = shape(
    ["expr"], expr={"type": ["string", "integer"]}, record=TEXT, alert=TEXT,
    labels=BY_NAME, annotations=BY_NAME, keep_firing_for=DURATION,
    **{"for": DURATION})
PROMETHEUS_RULE = shape(["groups"], groups=some(shape(
    ["name", "rules"], name=TEXT, interval=DURATION, rules=some(RULE))))
SCALING_POLICIES = shape(
    stabilizationWindowSeconds=COUNT, policies=some(shape(
        ["type", "value", "periodSeconds"], type=one_of("Pods", "Percent"),
        value=COUNT, periodSeconds=COUNT)))
SCALED_OBJECT = shape(
    ["scaleTargetRef", "triggers"],
    scaleTargetRef=shape(["name"], name=TEXT, kind=TEXT, apiVersion=TEXT),
    pollingInterval=COUNT, cooldownPeriod=COUNT, minReplicaCount=COUNT,
    maxReplicaCount=COUNT,
    fallback=shape(["failureThreshold", "replicas"], failureThreshold=COUNT,
                   replicas=COUNT),
    advanced=shape(horizontalPodAutoscalerConfig=shape(
        behavior=shape(scaleUp=SCALING_POLICIES,
                       scaleDown=SCALING_POLICIES))),
    triggers=some(shape(
        ["type", "metadata"], type=one_of("prometheus"), name=TEXT,
        metricType=one_of("AverageValue", "Value"),
        # All of them are strings.
        metadata=shape(["serverAddress", "query", "threshold"],
                       serverAddress=TEXT, query=TEXT, threshold=TEXT,
                       activationThreshold=TEXT,
                       ignoreNullValues=one_of("true", "false")))))
GRPC_ROUTE = shape(
    ["parentRefs", "rules"], parentRefs=some(PARENT_REFERENCE),
    hostnames=TEXTS,
    rules=some(shape(
        matches=some(shape(["method"], method=shape(
            service=TEXT, method=TEXT, type=one_of("Exact")))),
        backendRefs=some(shape(["name", "port"], name=TEXT, port=PORT)))))
HTTP_ROUTE = shape(
    ["parentRefs", "rules"], parentRefs=some(PARENT_REFERENCE),
    hostnames=TEXTS,
    rules=some(shape(
        matches=some(shape(["path"], path=shape(
            ["type", "value"], type=one_of("PathPrefix", "Exact"),
            value={"type": "string", "pattern": "^/"}))),
        backendRefs=some(shape(["name"], group=TEXT, kind=TEXT, name=TEXT,
                               port=PORT)))))
INFERENCE_POOL = shape(
    ["selector", "targetPorts", "endpointPickerRef"], selector=MATCH_LABELS,
    targetPorts=some(shape(["number"], number=PORT)),
    appProtocol=one_of("http", "kubernetes.io/h2c"),
    endpointPickerRef=shape(
        ["name", "port"], name=TEXT, port=shape(["number"], number=PORT),
        failureMode=one_of("FailOpen", "FailClose")))
# Its containers are Kubernetes' own: manifests_test.py validates them as such.
SERVING_RUNTIME = shape(
    ["supportedModelFormats", "containers"], annotations=BY_NAME,
    supportedModelFormats=some(shape(["name"], name=TEXT, version=TEXT,
                                     autoSelect=FLAG, priority=COUNT)),
    protocolVersions=some(one_of("v1", "v2", "grpc-v1", "grpc-v2")),
    multiModel=FLAG, containers=some({"type": "object"}))
INFERENCE_SERVICE = shape(["predictor"], predictor=shape(
    ["model"], minReplicas=COUNT, maxReplicas=COUNT,
    terminationGracePeriodSeconds=COUNT,
    model=shape(["modelFormat"], modelFormat=shape(["name"], name=TEXT,
                                                   version=TEXT),
                runtime=TEXT, protocolVersion=TEXT, storageUri=TEXT,
                args=TEXTS)))

# Specifications by (apiVersion, kind).
SPECIFICATIONS = {
    ("cert-manager.io/v1", "Certificate"): CERTIFICATE,
    ("cert-manager.io/v1", "Issuer"): ISSUER,
    ("monitoring.coreos.com/v1", "PodMonitor"): POD_MONITOR,
    ("monitoring.coreos.com/v1", "PrometheusRule"): PROMETHEUS_RULE,
    ("keda.sh/v1alpha1", "ScaledObject"): SCALED_OBJECT,
    ("gateway.networking.k8s.io/v1", "GRPCRoute"): GRPC_ROUTE,
    ("gateway.networking.k8s.io/v1", "HTTPRoute"): HTTP_ROUTE,
    ("inference.networking.k8s.io/v1", "InferencePool"): INFERENCE_POOL,
    ("serving.kserve.io/v1alpha1", "ServingRuntime"): SERVING_RUNTIME,
    ("serving.kserve.io/v1beta1", "InferenceService"): INFERENCE_SERVICE,
}


def schema_of(manifest):
    """Of the whole object; None if the kind is none of these."""
    key = (manifest["apiVersion"], manifest["kind"])
    if key not in SPECIFICATIONS:
        return None
    return shape(["apiVersion", "kind", "metadata", "spec"], apiVersion=TEXT,
                 kind=TEXT, spec=SPECIFICATIONS[key],
                 metadata=shape(["name"], name=TEXT, namespace=TEXT,
                                labels=BY_NAME, annotations=BY_NAME))
