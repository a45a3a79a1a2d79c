package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/client"

	"shoal.dev/shoal/lab"
)

const (
	trafficPort    = 8080 // published for the server
	trafficNetwork = "traffic"

	// What one run takes of each way. Requests have a connection each, and few enough of those that the kernel's table
	// of connections does not fill up over ten runs.
	trafficBytes    = 1 << 30
	trafficRequests = 2000 // one after the other
	trafficCrowd    = 2000 // by trafficAtOnce
	trafficAtOnce   = 4
)

// way is one of the ways to the server that are compared.
type way struct {
	name string
	from string // file of the network namespace of who asks
	to   string // address and port
}

// trafficServices makes a server with a published port and a virtual address, and a container that asks it, both on the
// first host.
func trafficServices(ctx context.Context, r *rig, _ *Report) error {
	c := r.clients[0]
	if _, err := c.NetworkCreate(ctx, trafficNetwork, client.NetworkCreateOptions{Driver: "overlay"}); err != nil {
		return err
	}
	for _, s := range []struct {
		name, image string
		args        []string
		ports       []swarm.PortConfig
	}{
		{"server", helloImage, nil, []swarm.PortConfig{{Protocol: network.TCP, TargetPort: 80, PublishedPort: trafficPort}}},
		{"asker", shellImage, idleCommand, nil},
	} {
		res, err := c.ServiceCreate(ctx, client.ServiceCreateOptions{Spec: swarm.ServiceSpec{
			Annotations: swarm.Annotations{Name: s.name},
			TaskTemplate: swarm.TaskSpec{
				ContainerSpec: &swarm.ContainerSpec{Image: s.image, Command: s.args},
				Placement:     &swarm.Placement{Constraints: []string{"node.role == manager"}},
				Networks:      []swarm.NetworkAttachmentConfig{{Target: trafficNetwork}},
			},
			EndpointSpec: &swarm.EndpointSpec{Ports: s.ports},
		}})
		if err != nil {
			return err
		}
		if err := r.running(ctx, 1, res.ID, 1, nil); err != nil {
			return err
		}
	}
	// A task runs before every node's kernel knows it.
	return poll(ctx, 20*time.Millisecond, func() error {
		return lab.Within(r.namespace(), func() error { return ask(ctx, r.published()) })
	})
}

// traffic takes throughput, connections a second and latency of each way to a container: through the routing mesh, a
// virtual address and two proxies, and directly.
func traffic(ctx context.Context, g *rig, r *Report, _ int) error {
	side := r.side
	defer func() { r.side = side }()
	ways, stop, err := g.ways(ctx)
	if err != nil {
		return err
	}
	defer stop()
	for _, w := range ways {
		rate, err := throughput(ctx, w)
		if err != nil {
			return fmt.Errorf("%s: %w", w.name, err)
		}
		one, err := requests(ctx, w, 1, trafficRequests)
		if err != nil {
			return fmt.Errorf("%s: %w", w.name, err)
		}
		begin := time.Now()
		if _, err := requests(ctx, w, trafficAtOnce, trafficCrowd/trafficAtOnce); err != nil {
			return fmt.Errorf("%s: %w", w.name, err)
		}
		many := float64(trafficCrowd) / time.Since(begin).Seconds()
		slices.Sort(one)
		from, way, _ := strings.Cut(w.name, ": ")
		r.Add(side+", "+way, "throughput "+from, "Gbit/s", rate)
		r.Add(side+", "+way, "connections a second "+from, "1/s", many)
		r.Add(side+", "+way, "a request on a connection of its own, p50, "+from, "ms", ms(one[len(one)/2]))
		r.Add(side+", "+way, "a request on a connection of its own, p99, "+from, "ms", ms(one[len(one)*99/100]))
	}
	return nil
}

// ways finds the addresses and starts the proxies, until stop. Each group begins with what the others are compared with.
func (r *rig) ways(ctx context.Context) (ways []way, stop func(), err error) {
	server, err := r.task(ctx, "server")
	if err != nil {
		return nil, nil, err
	}
	asker, err := r.task(ctx, "asker")
	if err != nil {
		return nil, nil, err
	}
	host := r.namespace()
	outside := "/run/netns/" + lab.ClientNamespace
	direct, err := reachable(ctx, host, server.namespace)
	if err != nil {
		return nil, nil, err
	}
	published := r.published()
	ways = []way{
		{"from the node: mesh", host, published},
		{"from the node: direct", host, direct},
		{"from the node: direct again", host, direct},
		{"from a container of the node: virtual address", asker.namespace, net.JoinHostPort(server.vip, "80")},
		{"from a container of the node: direct", asker.namespace, net.JoinHostPort(server.address, "80")},
		{"from a container of the node: direct again", asker.namespace, net.JoinHostPort(server.address, "80")},
		{"from outside: mesh", outside, published},
		{"from outside: mesh, by another node", outside, net.JoinHostPort(r.host(2).Addr, strconv.Itoa(trafficPort))},
	}
	proxies, stop, err := r.startProxies(ctx, direct)
	if err != nil {
		return nil, nil, err
	}
	for _, p := range proxies {
		ways = append(ways, way{"from outside: " + p.name, outside, net.JoinHostPort(r.host(1).Addr, strconv.Itoa(p.port))})
	}
	return ways, stop, nil
}

// namespace is the first host's.
func (r *rig) namespace() string { return "/run/netns/" + r.host(1).Namespace }

// published is where the first host answers for the server.
func (r *rig) published() string { return net.JoinHostPort(r.host(1).Addr, strconv.Itoa(trafficPort)) }

// where is a task that runs: its container's network namespace, its address on the network and its service's there.
type where struct{ namespace, address, vip string }

func (r *rig) task(ctx context.Context, service string) (where, error) {
	c := r.clients[0]
	net, err := c.NetworkInspect(ctx, trafficNetwork, client.NetworkInspectOptions{})
	if err != nil {
		return where{}, err
	}
	tasks, err := c.TaskList(ctx, client.TaskListOptions{Filters: client.Filters{}.Add("service", service).Add("desired-state", "running")})
	if err != nil {
		return where{}, err
	}
	if len(tasks.Items) != 1 || tasks.Items[0].Status.ContainerStatus == nil {
		return where{}, fmt.Errorf("%d tasks of %s, want one that runs", len(tasks.Items), service)
	}
	t := tasks.Items[0]
	con, err := c.ContainerInspect(ctx, t.Status.ContainerStatus.ContainerID, client.ContainerInspectOptions{})
	if err != nil {
		return where{}, err
	}
	w := where{namespace: fmt.Sprintf("/proc/%d/ns/net", con.Container.State.Pid)}
	for _, a := range t.NetworksAttachments {
		if a.Network.ID == net.Network.ID && len(a.Addresses) > 0 {
			w.address = a.Addresses[0].Addr().String()
		}
	}
	s, err := c.ServiceInspect(ctx, service, client.ServiceInspectOptions{})
	if err != nil {
		return where{}, err
	}
	for _, v := range s.Service.Endpoint.VirtualIPs {
		if v.NetworkID == net.Network.ID {
			w.vip = v.Addr.Addr().String()
		}
	}
	if w.address == "" || w.vip == "" {
		return where{}, fmt.Errorf("%s has the address %q and the virtual address %q on %s", service, w.address, w.vip, trafficNetwork)
	}
	return w, nil
}

// reachable is which of the container's addresses its host reaches directly, with the server's port.
func reachable(ctx context.Context, host, container string) (string, error) {
	var addrs []net.Addr
	err := lab.Within(container, func() error {
		var err error
		addrs, err = net.InterfaceAddrs()
		return err
	})
	if err != nil {
		return "", err
	}
	for _, a := range addrs {
		p, err := netip.ParsePrefix(a.String())
		if err != nil || !p.Addr().Is4() || p.Addr().IsLoopback() {
			continue
		}
		to := netip.AddrPortFrom(p.Addr(), 80).String()
		try, cancel := context.WithTimeout(ctx, time.Second)
		err = lab.Within(host, func() error { return ask(try, to) })
		cancel()
		if err == nil {
			return to, nil
		}
	}
	return "", fmt.Errorf("the host reaches none of the addresses %v", addrs)
}

// requests asks the server, so many at a time and each so often, and says how long each request took.
func requests(ctx context.Context, w way, at, each int) ([]time.Duration, error) {
	took := make([][]time.Duration, at)
	errs := make([]error, at)
	var wg sync.WaitGroup
	for i := range at {
		wg.Go(func() {
			errs[i] = lab.Within(w.from, func() error {
				for range each {
					begin := time.Now()
					if err := ask(ctx, w.to); err != nil {
						return err
					}
					took[i] = append(took[i], time.Since(begin))
				}
				return nil
			})
		})
	}
	wg.Wait()
	return slices.Concat(took...), errors.Join(errs...)
}

// dial connects on this very thread, and so from its namespace.
func dial(ctx context.Context, to string) (net.Conn, error) {
	conn, err := (&net.Dialer{FallbackDelay: -1, Timeout: 5 * time.Second}).DialContext(ctx, "tcp", to)
	if err != nil {
		return nil, err
	}
	return conn, conn.SetDeadline(time.Now().Add(time.Minute))
}

// ask makes a connection, a request and waits for the end of the answer.
func ask(ctx context.Context, to string) error {
	conn, err := dial(ctx, to)
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "GET /healthz HTTP/1.0\r\n\r\n"); err != nil {
		return err
	}
	answer, err := io.ReadAll(conn)
	if err == nil && !bytes.HasSuffix(answer, []byte("ok\n")) {
		err = fmt.Errorf("%s answered %q", to, answer)
	}
	return err
}

// throughput is that of one connection, in Gbit/s.
func throughput(ctx context.Context, w way) (float64, error) {
	var rate float64
	err := lab.Within(w.from, func() error {
		conn, err := dial(ctx, w.to)
		if err != nil {
			return err
		}
		defer conn.Close()
		begin := time.Now()
		if _, err := fmt.Fprintf(conn, "GET /zeros?bytes=%d HTTP/1.0\r\n\r\n", trafficBytes); err != nil {
			return err
		}
		var n int64
		for buf := make([]byte, 256<<10); ; {
			k, err := conn.Read(buf)
			n += int64(k)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return err
			}
		}
		if n < trafficBytes {
			return fmt.Errorf("%d bytes came of %d", n, trafficBytes)
		}
		rate = float64(n) * 8 / 1e9 / time.Since(begin).Seconds()
		return nil
	})
	return rate, err
}
