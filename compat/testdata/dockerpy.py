"""Calls of docker-py against a daemon at DOCKER_HOST. It ends with status 0 if all did what they should."""
import io
import os
import sys
import tarfile
import threading
import time

import docker

REGISTRY = os.environ["REGISTRY"]


def refused(fn, error, text):
    try:
        fn()
    except error as e:
        assert text in str(e), f"{e!r} does not say {text!r}"
    else:
        raise AssertionError(f"nothing refused what should say {text!r}")


def until(what, fn):
    end = time.time() + 15
    while time.time() < end:
        if fn():
            return
        time.sleep(0.05)
    raise AssertionError(f"not after 15 s: {what}")


def tar(name, data):
    buf = io.BytesIO()
    with tarfile.open(fileobj=buf, mode="w") as t:
        info = tarfile.TarInfo(name)
        info.size = len(data)
        t.addfile(info, io.BytesIO(data))
    return buf.getvalue()


def system(c):
    assert c.ping() is True
    assert c.version()["ApiVersion"] == "1.56"
    assert c.info()["Swarm"]["LocalNodeState"] == "inactive"
    assert c.df()["Images"] is not None


def images(c):
    image = c.images.pull("busybox", tag="latest")
    assert image.tags == ["busybox:latest"], image.tags
    assert image.tag("mine", "1")
    assert c.images.get("mine:1").id == image.id
    assert len(c.images.list(name="mine")) == 1
    assert image.history()
    pushed = c.images
    image.tag(REGISTRY + "/mine", "1")
    pushed.push(REGISTRY + "/mine", tag="1")
    saved = b"".join(image.save(named=True))
    loaded = c.images.load(saved)
    assert loaded[0].id == image.id, loaded
    c.images.remove(REGISTRY + "/mine:1")
    c.images.remove("mine:1")
    refused(lambda: c.images.get("nothing:1"), docker.errors.ImageNotFound, "nothing")
    refused(lambda: c.images.pull("nothing", tag="1"), docker.errors.NotFound, "")
    assert c.images.get_registry_data(REGISTRY + "/hello:1").id.startswith("sha256:")
    c.images.prune(filters={"dangling": True})


def containers(c):
    assert c.containers.run("busybox", ["echo", "out"], remove=True) == b"out\n"
    try:
        c.containers.run("busybox", ["sh", "-c", "echo no >&2; exit 3"], remove=True)
        raise AssertionError("exit code 3 is no error")
    except docker.errors.ContainerError as e:
        assert e.exit_status == 3 and e.stderr == b"no\n", (e.exit_status, e.stderr)
    k = c.containers.run(
        "busybox", ["sh", "-c", "trap 'exit 5' TERM; echo up; while :; do sleep 0.1; done"], name="job", detach=True,
        environment={"A": "b"}, labels={"tier": "back"}, mem_limit="64m", ports={"80/tcp": ("127.0.0.1", 8080)}, cap_add=["NET_ADMIN"])
    until("the first line", lambda: k.logs() == b"up\n")
    k.reload()
    assert k.status == "running" and k.labels["tier"] == "back"
    assert k.attrs["HostConfig"]["Memory"] == 64 << 20
    assert k.ports["80/tcp"] == [{"HostIp": "127.0.0.1", "HostPort": "8080"}], k.ports
    assert [x.name for x in c.containers.list(filters={"label": "tier=back"})] == ["job"]
    code, out = k.exec_run(["sh", "-c", "echo $A; exit 4"], workdir="/tmp", user="nobody")
    assert (code, out) == (4, b"b\n"), (code, out)
    code, (stdout, stderr) = k.exec_run(["sh", "-c", "echo 1; echo 2 >&2"], demux=True)
    assert (stdout, stderr) == (b"1\n", b"2\n")
    _, s = k.exec_run(["cat"], stdin=True, socket=True)
    s._sock.sendall(b"through\n")
    s._sock.shutdown(1)
    data = b""
    while True:
        part = s._sock.recv(4096)
        if not part:
            break
        data += part
    assert data[8:] == b"through\n", data
    assert k.top()["Titles"]
    stats = k.stats(stream=False)
    assert stats["memory_stats"]["usage"] > 0 and stats["name"] == "/job"
    assert next(k.stats(decode=True))["pids_stats"]
    k.pause()
    k.reload()
    assert k.status == "paused"
    k.unpause()
    k.rename("work")
    k.update(mem_limit="128m", memswap_limit="128m")
    k.put_archive("/tmp", tar("in", b"given"))
    stream, stat = k.get_archive("/tmp/in")
    with tarfile.open(fileobj=io.BytesIO(b"".join(stream))) as t:
        assert t.extractfile("in").read() == b"given"
    assert stat["name"] == "in" and stat["size"] == 5, stat
    assert {"Path": "/tmp/in", "Kind": 1} in k.diff(), k.diff()
    with tarfile.open(fileobj=io.BytesIO(b"".join(k.export()))) as t:
        assert "tmp/in" in t.getnames()
    made = k.commit("kept", "1", message="why")
    assert c.containers.run("kept:1", ["cat", "/tmp/in"], remove=True) == b"given"
    c.images.remove(made.id, force=True)
    k.restart(timeout=5)
    until("the second run's line", lambda: k.logs() == b"up\nup\n")
    k.stop(timeout=5)
    assert k.wait()["StatusCode"] == 5
    refused(k.kill, docker.errors.APIError, "is not running")
    refused(lambda: c.containers.get("nothing"), docker.errors.NotFound, "No such container: nothing")
    refused(lambda: c.containers.create("busybox", name="work"), docker.errors.APIError, "Conflict")
    k.remove(v=True)
    tty = c.containers.create("busybox", ["sh", "-c", "read x; echo got $x"], tty=True, stdin_open=True)
    sock = tty.attach_socket(params={"stdin": 1, "stdout": 1, "stream": 1})
    tty.start()
    sock._sock.sendall(b"it\n")
    seen = b""
    while b"got it" not in seen:
        part = sock._sock.recv(4096)
        assert part, seen
        seen += part
    tty.resize(20, 80) if tty.status == "running" else None
    tty.wait()
    tty.remove()
    assert not c.containers.prune()["ContainersDeleted"]


def volumes(c):
    v = c.volumes.create("data", labels={"keep": "yes"})
    c.containers.run("busybox", ["sh", "-c", "echo kept > /d/f"], volumes={"data": {"bind": "/d", "mode": "rw"}}, remove=True)
    assert c.containers.run("busybox", ["cat", "/d/f"], volumes={"data": {"bind": "/d", "mode": "ro"}}, remove=True) == b"kept\n"
    assert [x.name for x in c.volumes.list(filters={"label": "keep"})] == ["data"]
    v.remove()
    refused(lambda: c.volumes.get("data"), docker.errors.NotFound, "no such volume")
    c.volumes.prune()


def networks(c):
    pool = docker.types.IPAMPool(subnet="10.98.0.0/24", gateway="10.98.0.1")
    n = c.networks.create("front", driver="bridge", ipam=docker.types.IPAMConfig(pool_configs=[pool]), labels={"k": "v"})
    refused(lambda: c.networks.create("front", check_duplicate=True), docker.errors.APIError, "already exists")
    k = c.containers.run("busybox", ["sleep", "1000"], name="server", network="front", detach=True)
    other = c.networks.create("back", internal=True)
    other.connect(k, aliases=["inner"], ipv4_address=None)
    assert c.containers.run("busybox", ["ping", "-c1", "inner"], network="back", remove=True)
    assert c.containers.run("busybox", ["ping", "-c1", "server"], network="front", remove=True)
    n.reload()
    assert [x.name for x in n.containers] == ["server"]
    other.disconnect(k)
    k.remove(force=True)
    n.remove()
    assert c.networks.prune()["NetworksDeleted"] == ["back"]


def events(c):
    seen = []
    stream = c.events(decode=True, filters={"container": "told"})
    thread = threading.Thread(target=lambda: seen.extend(stream))
    thread.start()
    # The stream is open once it answers; what came before is asked for by since.
    begin = int(time.time()) - 1
    c.containers.run("busybox", ["true"], name="told", remove=True)
    until("events", lambda: any(e["Action"] == "destroy" for e in seen))
    stream.close()
    past = [e["Action"] for e in c.events(decode=True, since=begin, until=int(time.time()) + 1, filters={"container": "told"})]
    assert past[0] == "create" and past[-1] == "destroy" and "die" in past, past
    assert all(e["status"] == e["Action"] and e["from"] == "busybox" for e in seen if c.api.api_version == "1.41")


def main():
    for version in (None, "auto"):
        c = docker.from_env(version=version, timeout=30)
        for part in (system, images, containers, volumes, networks, events):
            try:
                part(c)
            except Exception as e:
                raise AssertionError(f"{part.__name__}, API {c.api.api_version}: {e}") from e
            print("ok", part.__name__, c.api.api_version)


sys.exit(main())
