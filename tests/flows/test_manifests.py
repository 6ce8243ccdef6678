"""deploy/ against the schemas of Compose and Kubernetes, and Prefect's work pool templates."""

import json
import re
import subprocess
from copy import deepcopy
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest
import yaml
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.utilities.templating import apply_values, find_placeholders

REPOSITORY = Path(__file__).resolve().parents[2]
SCHEMAS = Path(__file__).parent / "schemas"
KINDS = {
    "Deployment": "io.k8s.api.apps.v1.Deployment",
    "NetworkPolicy": "io.k8s.api.networking.v1.NetworkPolicy",
    "Service": "io.k8s.api.core.v1.Service",
    "PersistentVolumeClaim": "io.k8s.api.core.v1.PersistentVolumeClaim",
    "ConfigMap": "io.k8s.api.core.v1.ConfigMap",
    "Job": "io.k8s.api.batch.v1.Job",
    "PodDisruptionBudget": "io.k8s.api.policy.v1.PodDisruptionBudget",
    "InferenceService": "kserve.V1beta1InferenceService",
}
STORE = [{"configMapRef": {"name": "storyreason"}}, {"secretRef": {"name": "storyreason-store"}}]


def schema(name: str) -> Any:
    return json.loads((SCHEMAS / f"{name}.json").read_text())


def faults(document: Any, against: Any) -> list[str]:
    """Each fault as `place: what is wrong`."""
    found = jsonschema.Draft202012Validator(against).iter_errors(document)
    return [f"{'/'.join(map(str, fault.absolute_path))}: {fault.message}" for fault in found]


def of_kind(kind: str) -> Any:
    kubernetes = schema("kubernetes-1.37")
    return {
        **kubernetes,
        "$defs": kubernetes["$defs"] | schema("kserve-0.21")["$defs"],
        "$ref": f"#/$defs/{KINDS[kind]}",
    }


def kubernetes() -> list[Any]:
    files = sorted((REPOSITORY / "deploy/kubernetes").glob("*.yaml"))
    return [document for file in files for document in yaml.safe_load_all(file.read_text())]


def compose(name: str = "compose") -> Any:
    return yaml.safe_load((REPOSITORY / f"deploy/{name}.yaml").read_text())


@pytest.mark.parametrize("name", ["compose", "compose.gpu"])
def test_it_is_a_compose_file(name: str) -> None:
    assert faults(compose(name), schema("compose-spec")) == []


@pytest.mark.parametrize("place", [("services", "gateway"), ("services", "postgres", "healthcheck")])
def test_a_misspelt_key_of_compose_yaml_is_found(place: tuple[str, ...]) -> None:
    document = deepcopy(compose())
    part = document
    for name in place:
        part = part[name]
    part["retires"] = 3
    assert "retires" in str(faults(document, schema("compose-spec")))


@pytest.mark.parametrize("document", kubernetes(), ids=lambda one: f"{one['kind']} {one['metadata']['name']}")
def test_every_object_for_kubernetes_is_of_its_kind(document: Any) -> None:
    assert faults(document, of_kind(document["kind"])) == []
    # A name that Kubernetes takes for all of these kinds (RFC 1123), and none twice.
    assert re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", document["metadata"]["name"])
    twins = [(d["kind"], d["metadata"]["name"]) for d in kubernetes()]
    assert twins.count((document["kind"], document["metadata"]["name"])) == 1


@pytest.mark.parametrize("kind", ["Deployment", "Job", "InferenceService"])
def test_a_misspelt_key_of_a_container_is_found(kind: str) -> None:
    document = next(one for one in deepcopy(kubernetes()) if one["kind"] == kind)
    pod = document["spec"]["predictor"] if kind == "InferenceService" else document["spec"]["template"]["spec"]
    pod["containers"][0]["readinesProbe"] = {}
    assert "readinesProbe" in str(faults(document, of_kind(kind)))


POOLS = sorted((REPOSITORY / "deploy/work-pools").glob("*.json"))


def filled(template: Any, values: dict[str, Any]) -> Any:
    """A job as Prefect's workers fill it in, without the keys that have no value."""
    return apply_values(template, values, remove_notset=True, warn_on_notset=False)


@pytest.mark.parametrize("path", POOLS, ids=lambda path: path.stem)
def test_a_work_pools_template_uses_each_of_its_variables_and_no_other(path: Path) -> None:
    template = json.loads(path.read_text())
    variables = template["variables"]["properties"]

    used = {found.name for found in find_placeholders(template["job_configuration"])}

    assert used == set(variables)
    WorkPoolCreate(name="storyreason", type=path.stem, base_job_template=template)
    defaults = {name: one["default"] for name, one in variables.items()}
    jsonschema.validate(defaults, template["variables"])


def test_a_run_on_kubernetes_is_a_pod_with_a_volume_of_the_pools_own() -> None:
    template = json.loads((REPOSITORY / "deploy/work-pools/kubernetes.json").read_text())
    defaults = {name: one["default"] for name, one in template["variables"]["properties"].items()}
    pod = filled(template["job_configuration"]["job_manifest"], defaults)["spec"]["template"]
    # What Prefect puts into it itself: its worker asks for two fields of a job here, and writes variables as a list.
    del pod["spec"]["completions"], pod["spec"]["parallelism"]
    (container,) = pod["spec"]["containers"]
    container["env"] = [{"name": name, "value": value} for name, value in container["env"].items()]

    against = {**schema("kubernetes-1.37"), "$ref": "#/$defs/io.k8s.api.core.v1.PodTemplateSpec"}
    assert faults(pod, against) == []
    claims = {one["metadata"]["name"] for one in kubernetes() if one["kind"] == "PersistentVolumeClaim"}
    claim = pod["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"]
    assert claim in claims and claim not in {name for _, one in pods() for name in claimed(one)}
    assert container["envFrom"] == STORE
    # Kubernetes would set STORYREASON_GATEWAY_PORT to tcp://10.0.0.1:8400 for the service storyreason-gateway.
    ours = {one["metadata"]["name"]: each for one, each in pods()}
    for each in (
        pod["spec"],
        *(ours[name] for name in ours if name not in ("storyreason-prefect", "storyreason-mlflow")),
    ):
        assert each["enableServiceLinks"] is False
    services = {one["metadata"]["name"] for one in kubernetes() if one["kind"] == "Service"}
    assert httpx.URL(container["env"][0]["value"]).host in services


def test_a_container_of_docker_shares_network_and_volume_with_the_parts_of_compose() -> None:
    template = json.loads((REPOSITORY / "deploy/work-pools/docker.json").read_text())
    defaults = {name: one["default"] for name, one in template["variables"]["properties"].items()}
    project = compose()["name"]

    assert defaults["network_mode"] == f"container:{project}-gateway-1" and "gateway" in compose()["services"]
    assert defaults["volumes"] == [f"{project}_runs:/runs"] and "runs" in compose()["volumes"]
    assert defaults["image"] == compose()["services"]["gateway"]["image"]


def test_every_container_of_compose_is_shut_in() -> None:
    for name, part in compose()["services"].items():
        assert part["user"] not in ("root", "0", "0:0") and part["read_only"] is True, name
        assert part["cap_drop"] == ["ALL"] and part["security_opt"] == ["no-new-privileges:true"], name
        assert part["mem_limit"] and part["pids_limit"] and part["healthcheck"]["test"], name
        assert "privileged" not in part and "cap_add" not in part, name


def test_compose_publishes_on_this_machine_only_what_asks_for_a_key() -> None:
    parts = compose()["services"]
    published = {name: part["ports"] for name, part in parts.items() if "ports" in part}

    assert published == {"prefect": ["127.0.0.1:4200:4200"], "gateway": ["127.0.0.1:8400:8400"]}
    assert ":?" in parts["prefect"]["environment"]["PREFECT_SERVER_API_AUTH_STRING"]  # Compose stops without it
    assert ":?" in parts["gateway"]["environment"]["STORYREASON_API_KEYS"]
    assert (
        parts["deployments"]["environment"]["PREFECT_API_AUTH_STRING"]
        == (parts["prefect"]["environment"]["PREFECT_SERVER_API_AUTH_STRING"])
    )


def test_no_secret_stands_on_a_command_line_of_a_container() -> None:
    commands = [part.get("command", "") for part in compose()["services"].values()]
    commands += [" ".join([*one["command"], *one.get("args", ())]) for _, one in containers()]
    assert not re.search(r"password|PASSWORD|API_KEYS|://[^ ]*@", "\n".join(commands))


def pods() -> list[tuple[Any, Any]]:
    """Each object that makes pods, and its pods' specification."""
    found = [(one, one["spec"]["template"]["spec"]) for one in kubernetes() if one["kind"] in ("Deployment", "Job")]
    return [*found, *((one, one["spec"]["predictor"]) for one in kubernetes() if one["kind"] == "InferenceService")]


def claimed(pod: Any) -> list[str]:
    """The claims of a pod's volumes."""
    volumes = [volume.get("persistentVolumeClaim") for volume in pod["volumes"]]
    return [claim["claimName"] for claim in volumes if claim]


def containers() -> list[tuple[Any, Any]]:
    """Each container for Kubernetes, as its pod's specification and itself."""
    return [(pod, container) for _, pod in pods() for container in pod["containers"]]


def run_pod() -> Any:
    """The pod template of a run on Kubernetes, with the template's defaults."""
    template = json.loads((REPOSITORY / "deploy/work-pools/kubernetes.json").read_text())
    defaults = {name: one["default"] for name, one in template["variables"]["properties"].items()}
    return filled(template["job_configuration"]["job_manifest"], defaults)["spec"]["template"]


def test_every_container_for_kubernetes_is_shut_in() -> None:
    run = run_pod()["spec"]
    for pod, container in [*containers(), (run, run["containers"][0])]:
        assert pod["securityContext"]["runAsNonRoot"] is True and pod["securityContext"]["runAsUser"] == 1000
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["requests"]["memory"] and container["resources"]["limits"]["memory"]
        written = {mount["mountPath"] for mount in container["volumeMounts"]}
        assert {"/runs", "/tmp"} <= written
        assert {mount["name"] for mount in container["volumeMounts"]} <= {volume["name"] for volume in pod["volumes"]}
    for container in (one for pod, one in containers() if pod.get("restartPolicy") != "Never"):
        assert "readinessProbe" in container
        assert "livenessProbe" in container or container["name"] == "deployments"  # it ends by itself without Prefect


def test_only_the_gateways_port_is_reached_by_others_and_it_wants_a_key() -> None:
    policies = {one["metadata"]["name"]: one["spec"] for one in kubernetes() if one["kind"] == "NetworkPolicy"}
    of_everyone = policies.pop("storyreason-nobody")
    labels = [
        one["spec"]["template"]["metadata"]["labels"]["app"]
        for one in kubernetes()
        if one["kind"] in ("Deployment", "Job")
    ]
    labels.append(run_pod()["metadata"]["labels"]["app"])

    assert sorted(of_everyone["podSelector"]["matchExpressions"][0]["values"]) == sorted(labels)
    assert of_everyone["policyTypes"] == ["Ingress"] and "ingress" not in of_everyone
    ports = {
        name: [port["port"] for rule in one["ingress"] for port in rule["ports"]] for name, one in policies.items()
    }
    assert ports == {
        "storyreason-prefect": [4200],
        "storyreason-mlflow": [5000],
        "storyreason-gateway": [8400],
        "storyreason-training": [1024],
        "storyteller": [8000],
    }
    assert all(rule["from"] for one in policies.values() for rule in one["ingress"])
    secrets = {
        variable["name"]: variable["valueFrom"]["secretKeyRef"]["key"]
        for _, container in containers()
        for variable in container.get("env", ())
        if "secretKeyRef" in variable.get("valueFrom", ())
    }
    assert secrets == {
        "PREFECT_API_DATABASE_CONNECTION_URL": "prefect-database",
        "PREFECT_SERVER_API_AUTH_STRING": "prefect-auth",
        "PREFECT_API_AUTH_STRING": "prefect-auth",
        "MLFLOW_BACKEND_STORE_URI": "mlflow-database",
        "STORYREASON_API_KEYS": "api-keys",
    }


def test_no_volume_is_shared_but_that_of_one_trainings_nodes() -> None:
    claims = {one["metadata"]["name"]: one["spec"] for one in kubernetes() if one["kind"] == "PersistentVolumeClaim"}
    modes = {name: claim["accessModes"] for name, claim in claims.items()}
    assert {name for name, mode in modes.items() if mode != ["ReadWriteOnce"]} == {"storyreason-training"}
    users: dict[str, list[Any]] = {name: [] for name in claims}
    for one, pod in pods():
        for name in claimed(pod):
            users[name].append((one["kind"], one["spec"].get("replicas")))
    assert users.pop("storyreason-work") == []  # the pool's runs have it
    assert users.pop("storyreason-training") == [("Job", None)]
    assert all(found == [("Deployment", 1)] for found in users.values())  # and one pod at a time: they are recreated
    recreated = {
        one["metadata"]["name"]: one["spec"]["strategy"]["type"]
        for one, pod in pods()
        if claimed(pod) and "strategy" in one["spec"]
    }
    assert set(recreated.values()) == {"Recreate"}
    services = compose()["services"]
    having = {name: [volume.split(":")[0] for volume in part.get("volumes", ())] for name, part in services.items()}
    alone = {"postgres": ["postgres"], "prefect": ["prefect"], "mlflow": ["mlflow"]}
    assert having == {**alone, "deployments": ["runs"], "gateway": ["runs"]}


def test_whoever_needs_versions_knows_the_store_and_its_secret() -> None:
    (settings,) = (one["data"] for one in kubernetes() if one["kind"] == "ConfigMap")
    assert settings["STORYREASON_ARTIFACTS"].startswith("s3://")
    needs = [container for _, container in containers() if container["name"] not in ("prefect",)]
    for container in needs:
        assert container["envFrom"] == STORE, container["name"]
    for name in ("deployments", "mlflow"):
        assert "STORYREASON_ARTIFACTS" in compose()["services"][name]["environment"]


def test_what_trains_or_runs_an_engine_asks_for_gpus_and_memory_that_processes_share() -> None:
    wanting = {container["name"]: (pod, container) for pod, container in containers()}
    for name in ("gateway", "deployments", "vllm", "kserve-container", "training"):
        pod, container = wanting.pop(name)
        resources = container["resources"]
        assert resources["limits"]["nvidia.com/gpu"] == resources["requests"]["nvidia.com/gpu"] >= 1, name
        (mount,) = (one["name"] for one in container["volumeMounts"] if one["mountPath"] == "/dev/shm")
        (volume,) = (one for one in pod["volumes"] if one["name"] == mount)
        assert volume["emptyDir"]["medium"] == "Memory"
    assert wanting.keys() == {"prefect", "mlflow"}
    assert compose("compose.gpu")["services"].keys() == {"deployments", "gateway"}


def test_the_gateway_is_ready_when_an_engine_serves_and_budgets_name_pods_that_there_are() -> None:
    (gateway,) = (container for _, container in containers() if container["name"] == "gateway")
    assert gateway["readinessProbe"]["httpGet"] == {"path": "/healthz", "port": 8400}
    labels = [
        one["spec"]["template"]["metadata"]["labels"] for one in kubernetes() if one["kind"] in ("Deployment", "Job")
    ]
    budgets = [one["spec"] for one in kubernetes() if one["kind"] == "PodDisruptionBudget"]
    assert [budget["selector"]["matchLabels"]["app"] for budget in budgets] == [
        "storyteller",
        "storyreason-jobs",
        "storyreason-training",
    ]
    for budget in budgets:
        assert any(budget["selector"]["matchLabels"].items() <= each.items() for each in labels)
        assert ("minAvailable" in budget) != ("maxUnavailable" in budget)


def test_the_nodes_of_a_training_meet_at_the_first_ones_name() -> None:
    (job,) = (one for one in kubernetes() if one["kind"] == "Job")
    pod, (container,) = job["spec"]["template"]["spec"], job["spec"]["template"]["spec"]["containers"]
    (service,) = (one for one in kubernetes() if one["kind"] == "Service" and one["spec"].get("clusterIP") == "None")
    assert job["spec"]["completionMode"] == "Indexed"
    name = job["metadata"]["name"]
    assert pod["subdomain"] == service["metadata"]["name"]
    script = container["command"][-1]
    assert f"first={name}-0.{service['metadata']['name']}\n" in script
    labels = job["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= labels.items() and labels["training"] == name
    (file,) = set(re.findall(r"fsdp2-\w+", script))
    accelerate = yaml.safe_load((REPOSITORY / f"deploy/accelerate/{file}.yaml").read_text())
    assert accelerate["num_machines"] == job["spec"]["completions"] == job["spec"]["parallelism"]
    assert (
        accelerate["num_processes"] == job["spec"]["completions"] * container["resources"]["limits"]["nvidia.com/gpu"]
    )
    assert subprocess.run(["sh", "-n", "-c", script]).returncode == 0


def test_the_image_runs_as_nobody_special_and_installs_only_what_was_locked() -> None:
    lines = (REPOSITORY / "deploy/Dockerfile").read_text().splitlines()
    assert [line for line in lines if line.startswith("USER")] == ["USER 1000:1000"]
    assert any(" gcc " in line for line in lines)  # Triton compiles kernels where they run
    assert any("--require-hashes -r deploy/requirements-$LOCK.txt" in line for line in lines)
