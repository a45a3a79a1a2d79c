"""Calls of docker-py's swarm against a daemon at DOCKER_HOST. It ends with status 0 if all did what they should."""
import sys
import time

import docker
from docker.types import ConfigReference, EndpointSpec, RestartPolicy, SecretReference, ServiceMode, UpdateConfig


def refused(fn, error, text):
    try:
        fn()
    except error as e:
        assert text in str(e), f"{e!r} does not say {text!r}"
    else:
        raise AssertionError(f"nothing refused what should say {text!r}")


def until(what, fn):
    end = time.time() + 20
    while time.time() < end:
        if fn():
            return
        time.sleep(0.05)
    raise AssertionError(f"not after 20 s: {what}")


def states(service):
    return sorted(t["Status"]["State"] for t in service.tasks(filters={"desired-state": "running"}))


def swarm(c):
    refused(c.nodes.list, docker.errors.APIError, "not a swarm manager")
    c.swarm.init(advertise_addr="eth0", task_history_retention_limit=3, labels={"kind": "test"})
    assert c.swarm.attrs["Spec"]["Orchestration"]["TaskHistoryRetentionLimit"] == 3, c.swarm.attrs
    worker = c.swarm.attrs["JoinTokens"]["Worker"]
    c.swarm.update(rotate_worker_token=True, labels={"kind": "other"})
    c.swarm.reload()
    assert c.swarm.attrs["JoinTokens"]["Worker"] != worker
    assert c.swarm.attrs["Spec"]["Labels"] == {"kind": "other"}, c.swarm.attrs["Spec"]
    refused(lambda: c.swarm.init(advertise_addr="eth0"), docker.errors.APIError, "already part of a swarm")
    refused(lambda: c.swarm.leave(), docker.errors.APIError, "force")


def nodes(c):
    [n] = c.nodes.list(filters={"role": "manager"})
    assert n.attrs["ManagerStatus"]["Leader"] and n.attrs["Status"]["State"] == "ready", n.attrs
    n.update({"Availability": "active", "Role": "manager", "Labels": {"zone": "a"}})
    n.reload()
    assert n.attrs["Spec"]["Labels"] == {"zone": "a"}
    assert c.nodes.get(n.id).id == n.id
    refused(lambda: c.nodes.get("nothing"), docker.errors.NotFound, "nothing")
    assert c.nodes.list(filters={"role": "worker"}) == []


def secrets(c):
    s = c.secrets.create(name="password", data=b"hunter2", labels={"k": "v"})
    assert [x.name for x in c.secrets.list(filters={"name": "password"})] == ["password"]
    assert "Data" not in c.secrets.get(s.id).attrs["Spec"], "a secret is shown"
    refused(lambda: c.secrets.create(name="password", data=b"x"), docker.errors.APIError, "already exists")
    refused(lambda: c.secrets.get("nothing"), docker.errors.NotFound, "nothing")


def configs(c):
    k = c.configs.create(name="page", data=b"hello", labels={"k": "v"})
    assert c.configs.get(k.id).attrs["Spec"]["Data"] == "aGVsbG8=", c.configs.get(k.id).attrs
    assert [x.name for x in c.configs.list(filters={"name": "page"})] == ["page"]
    refused(lambda: c.configs.create(name="page", data=b"x"), docker.errors.APIError, "already exists")


def services(c):
    [secret], [config] = c.secrets.list(), c.configs.list()
    web = c.services.create(
        "busybox", ["sh", "-c", "cat /run/secrets/password /page; echo; exec sleep 1000"], name="web", labels={"tier": "front"}, env=["A=b"],
        secrets=[SecretReference(secret.id, "password")], configs=[ConfigReference(config.id, "page", filename="/page")],
        mode=ServiceMode("replicated", replicas=2), endpoint_spec=EndpointSpec(ports={8080: 80}), stop_grace_period=10**9,
        update_config=UpdateConfig(parallelism=2, order="start-first"), restart_policy=RestartPolicy("any"), constraints=["node.labels.zone == a"])
    until("two tasks run", lambda: states(web) == ["running"] * 2)
    assert web.attrs["Spec"]["TaskTemplate"]["ContainerSpec"]["Env"] == ["A=b"], web.attrs
    until("the log of both", lambda: b"".join(web.logs(stdout=True)).count(b"hunter2hello") == 2)
    web.reload()
    assert web.attrs["Endpoint"]["Ports"][0]["PublishedPort"] == 8080, web.attrs["Endpoint"]
    assert [s.name for s in c.services.list(filters={"label": "tier=front"})] == ["web"]
    assert web.scale(3)
    until("three tasks run", lambda: states(web) == ["running"] * 3)
    web.reload()
    before = {t["ID"] for t in web.tasks(filters={"desired-state": "running"})}
    assert web.force_update()
    until("all were replaced", lambda: states(web) == ["running"] * 3 and not before & {t["ID"] for t in web.tasks(filters={"desired-state": "running"})})
    web.reload()
    web.update(env=["A=c"], labels={"tier": "back"}, fetch_current_spec=True)
    web.reload()
    assert web.attrs["Spec"]["Labels"] == {"tier": "back"} and web.attrs["Spec"]["TaskTemplate"]["ContainerSpec"]["Env"] == ["A=c"], web.attrs["Spec"]
    assert web.attrs["PreviousSpec"]["Labels"] == {"tier": "front"}
    refused(lambda: c.api.update_service(web.id, version=1, fetch_current_spec=True), docker.errors.APIError, "out of sequence")
    refused(secret.remove, docker.errors.APIError, "in use by the following service: web")
    refused(config.remove, docker.errors.APIError, "in use by the following service: web")
    refused(lambda: c.services.create("busybox", name="web"), docker.errors.APIError, "name conflicts with an existing object")
    refused(lambda: c.services.create("busybox", name="other", endpoint_spec=EndpointSpec(ports={8080: 80})), docker.errors.APIError, "8080")
    every = c.services.create("busybox", ["sleep", "1000"], name="every", mode="global")
    until("the global one runs", lambda: states(every) == ["running"])
    every.remove()
    web.remove()
    refused(lambda: c.services.get("web"), docker.errors.NotFound, "web")
    until("their containers are gone", lambda: not c.api.containers(all=True))
    secret.remove()
    config.remove()
    assert c.secrets.list() == [] and c.configs.list() == []


def overlays(c):
    n = c.networks.create("back", driver="overlay", attachable=True)
    assert c.networks.list(names=["back"])[0].attrs["Scope"] == "swarm"
    n.remove()


def leave(c):
    c.swarm.leave(force=True)
    assert c.info()["Swarm"]["LocalNodeState"] == "inactive"


def main():
    for version in (None, "auto"):
        c = docker.from_env(version=version, timeout=30)
        for part in (swarm, nodes, secrets, configs, services, overlays, leave):
            try:
                part(c)
            except Exception as e:
                raise AssertionError(f"{part.__name__}, API {c.api.api_version}: {e}") from e
            print("ok", part.__name__, c.api.api_version)


sys.exit(main())
